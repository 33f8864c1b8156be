"""HeMolmos whose scorers have an opinion."""

from __future__ import annotations

import torch

from olmo.models.he_molmo.he_molmo import HeMolmo


def opinionated(model: HeMolmo) -> HeMolmo:
    """Random weights where a scorer starts with zeros; without them all tokens are equals."""
    if model.token_selector.scorer is not None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.token_selector.scorer.parameters():
                parameter.normal_(0.0, 1.0, generator=generator)
    return model
