"""Where the parameters are: counts by room of the model."""

from __future__ import annotations

from torch import nn

_ROOM_OF = {
    "embedding": "embedding",
    "source": "attention",
    "target": "attention",
    "edge_feed_forward": "edge feed-forward",
    "atom_feed_forward": "atom feed-forward",
    "energy_head": "heads",
    "force_head": "heads",
}


def parameters_by_room(module: nn.Module) -> dict[str, int]:
    """Number of parameters of the embedding, attention, both feed-forward networks and heads.

    Takes the model, an exported module or a wrapper around one: a parameter belongs to the first known part of its
    name. Whatever fits none is counted as ``other``; rooms without parameters are left out.
    """
    counts = dict.fromkeys([*_ROOM_OF.values(), "other"], 0)
    for name, parameter in module.named_parameters():
        room = next((_ROOM_OF[part] for part in name.split(".") if part in _ROOM_OF), "other")
        counts[room] += parameter.numel()
    return {room: count for room, count in counts.items() if count}
