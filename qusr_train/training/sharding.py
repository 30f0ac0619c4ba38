"""Frozen weights spread over the processes (FSDP2); what is trained stays whole on each, for DDP."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError


def shard_frozen(model: nn.Module, unet: nn.Module, device: torch.device) -> None:
    """Keep a share of the UNet's frozen weights on each process; a block's are gathered while it computes.

    LoRA and UEM are a few million weights: they stay ordinary tensors, so that gradients, averages, optimiser
    state and checkpoints are those of a run without sharding.

    Args:
        model: what DDP will wrap; holds `unet`.
        unet: UNet2DConditionModel with its adapters, on `device`.
        device: of this process.

    Raises:
        ValueError: there is only one process.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise InputError("needs several processes; start with accelerate launch --num_processes N", field="shard")
    unet.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other layout
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    trained = {p for p in unet.parameters() if p.requires_grad}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    down, middle, up = (unet.get_submodule(name) for name in ("down_blocks", "mid_block", "up_blocks"))
    for block in (*down.children(), middle, *up.children(), unet):
        fully_shard(block, mesh=mesh, ignored_params=trained)
    # DDP must not broadcast the shards.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
