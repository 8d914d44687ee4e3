"""What an integrator may choose of the ring: the parameters `ring.*`."""

from __future__ import annotations

from dataclasses import dataclass

from bev_perception.ring.triggers import BRAKING_MPS2, TRIGGERS, UNCERTAINTY

SHARE = 0.03  # of a core, for all that the ring does beside keeping references


@dataclass(frozen=True)
class RingConfig:
    """folder: where bags are written, "" for no ring. seconds, mib: of messages that are kept at most; after_s: how
    long a bag goes on after its trigger; pause_s: between two bags; folder_mib: of all bags together, beyond which none
    is written. triggers: keys of TRIGGERS. uncertainty: nats; braking_mps2: from here on a deceleration is hard.
    jpeg_quality: 1 to 100, of raw images as far as SHARE allows; 0: they are kept as they come."""

    folder: str = ""
    seconds: float = 10.0
    mib: int = 256
    after_s: float = 2.0
    pause_s: float = 60.0
    folder_mib: int = 4000
    triggers: tuple[str, ...] = tuple(TRIGGERS)
    uncertainty: float = UNCERTAINTY
    braking_mps2: float = BRAKING_MPS2
    jpeg_quality: int = 0
