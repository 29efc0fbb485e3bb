"""Prints, as JSON, which vector instructions torch uses here, and a digest of the last digits of what it computes with them.

The operations and their shapes are those of the embedded policy. The inputs are numpy's, so that only the operation itself can
make a difference. Run as a process of its own: the libraries read their settings when they are loaded. Source: ours.
"""

import hashlib
import json
import os

import numpy as np
import torch
from torch.nn import functional


def main() -> None:
    generator = np.random.default_rng(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    states, weight, head = normal(700, 160), normal(160, 448), normal(160, 1536)
    queries = normal(4, 5, 128, 32)
    patches, kernel = normal(64, 3, 2, 14, 14), normal(128, 3, 2, 14, 14)
    activations = normal(700, 448)
    results = {
        "sum": normal(3_000_000).sum(),
        "matmul": states @ weight,
        "attention": functional.scaled_dot_product_attention(queries, queries, queries),
        "softmax": activations.softmax(-1),
        "layer_norm": functional.layer_norm(activations, (448,)),
        "gelu": functional.gelu(activations),
        "silu": functional.silu(activations),
        "exp": activations.exp(),
        "convolution": functional.conv3d(patches, kernel),
        "gradient": gradient(states, head),
    }
    version = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
    counts = {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()}
    print(json.dumps({**version, **counts, "digits": {name: digest(value) for name, value in results.items()}}))


def gradient(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Of the mean cross-entropy of the logits by the output head, `(hidden, vocabulary)`, as in a step of training."""
    head = head.clone().requires_grad_()
    labels = torch.arange(len(states)) % head.shape[1]
    functional.cross_entropy(functional.layer_norm(states, states.shape[1:]) @ head, labels).backward()
    return head.grad


def digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()[:12]


if __name__ == "__main__":
    main()
