"""Download public weights, only when the user asks for it."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..qusr_train.download.catalog import MODELS
from ..qusr_train.download.models import choose, download_model, look
from .native.host import checkpoint_interrupt, model_folders, progress
from .native.schema import found_by
from .native.sockets import CATEGORY


class QUSRDownload(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sizes = "; ".join(f"{model.name}: {model.download}, {model.licence}" for model in MODELS.values())
        return io.Schema(
            node_id="QUSRDownload",
            display_name="QUSR Download",
            category=CATEGORY,
            **found_by("download model, get weights, sd 2.1, stable diffusion 2.1, taesd, osediff, model manager"),
            description=(
                "Fetches public weights into ComfyUI's model folders: Stable Diffusion 2.1-base, TAESD, OSEDiff. "
                "Looks through all your model folders first, and downloads nothing until you switch it on."
            ),
            inputs=[
                io.Combo.Input("model", options=list(MODELS), tooltip=f"What to fetch, its size and licence. {sizes}."),
                io.Boolean.Input(
                    "download",
                    default=False,
                    label_on="download",
                    label_off="only look",
                    tooltip="Off: only say where the files are or would go, no network. On: download what is missing.",
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="Where the files are, and how verified.")],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> float:
        return float("nan")  # files come and go: look again at every run

    @classmethod
    def execute(cls, model: str, download: bool) -> io.NodeOutput:
        chosen = choose(model)
        folders = model_folders(chosen.kind)
        lines = [f"{chosen.name}: {chosen.about}. {chosen.download}, licence {chosen.licence}."]
        if download:
            bar = progress(1)

            def report(what: str, done: int, total: int | None) -> None:
                bar.update_absolute(done, total or done + 1)

            outcomes = download_model(chosen, folders, report, checkpoint_interrupt)
            lines += [str(outcome) for outcome in outcomes]
            lines.append(f"Press R to refresh the lists of the nodes. {chosen.next_step}")
        else:
            outcomes = look(chosen, folders)
            lines += [str(outcome) for outcome in outcomes]
            if not all(outcome.present for outcome in outcomes):
                lines.append("Nothing was downloaded: switch 'download' on and run again.")
        text = "\n".join(lines)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
