"""QUSR's mathematics, training and evaluation. Never imports ComfyUI.

Paper: QUSR, arXiv 2603.09125. Start with `model/uncertainty.py` (UEM), `model/noise.py` (equations 1-7) and
`model/nano.py` (the bundled model); `python -m qusr_train --help` lists the commands.
"""
