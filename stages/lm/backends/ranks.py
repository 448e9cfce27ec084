"""What a rank calls its own files."""

import torch.distributed as dist


def rank_file() -> str:
    """A file that no other rank writes; of another number of ranks it is not found."""
    return f"rank_{dist.get_rank()}_of_{dist.get_world_size()}.pt"


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return dist.get_rank(), dist.get_world_size()
