"""PyTorch tasks that client workers of the tests make."""

import torch

from client_worker import TorchTask


def blobs(shard: int, count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of points in eight dimensions."""
    draw = torch.Generator().manual_seed(shard)
    y = torch.randint(0, 3, (count,), generator=draw)
    x = torch.randn(count, 8, generator=draw) + 3 * torch.nn.functional.one_hot(y, 8)
    return x, y


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )


def site(shard: int = 0) -> TorchTask:
    x, y = blobs(shard)
    return TorchTask(
        network(),
        (x[30:], y[30:]),
        0.1,
        loss=torch.nn.CrossEntropyLoss(),
        validation=(x[:30], y[:30]),
        batch_size=16,
    )
