"""The radars that can be simulated, by name, with the numbers of `listed` and where they come from.

Each number is of one of three kinds. "Data sheet": that of the ARS 408-21 (Continental), the radar of nuScenes, or the
description of its CAN interface. "Literature": the source is named. "Assumed": a round value chosen without either.
The first two are as they are commonly quoted: not every number was checked in the sheet or the paper itself. None was
read off recordings or fitted to them. Whoever has some calibrates in a file of their own (`radar_named`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bev_perception.plain import from_plain, to_plain
from bev_perception.yaml_file import read_yaml
from training.world.listed_radar import ListedRadar, States
from training.world.receiver import Receiver
from training.world.scatterers import Body, Surroundings

LISTED = ListedRadar(
    # What an object has in all, parted among the three or four centres that are seen at a time. People: literature,
    # about -8 dBsm (Yamada et al., Radar cross section for pedestrian in 76 GHz band, EuMC 2005; Fortuny-Guasch and
    # Chareau, Radar cross section measurements of pedestrian dummies and humans, JRC report EUR 25762, 2013). That cars
    # differ log-normally: literature (Lee et al., Radar cross section measurement with 77 GHz automotive FMCW radar,
    # PIMRC 2016). The rest is assumed: 10 dBsm of a car, 20 of what is larger, 5 and -1 of two wheels with a rider,
    # -15 of a cone; wheels and limbs that make a tenth, a fifth and a third of the speed its deviation.
    bodies={
        "car": Body(3, 2, 5.0, 3.0, 5.0, 0.1),
        "truck": Body(4, 3, 14.0, 3.0, 5.0, 0.1),
        "bus": Body(4, 3, 14.0, 3.0, 5.0, 0.1),
        "trailer": Body(4, 3, 14.0, 3.0, 5.0, 0.1),
        "construction_vehicle": Body(4, 3, 14.0, 3.0, 5.0, 0.1),
        "pedestrian": Body(0, 0, -8.0, 3.0, 0.0, 0.3),
        "motorcycle": Body(1, 0, 5.0, 3.0, 3.0, 0.2),
        "bicycle": Body(1, 0, -1.0, 3.0, 3.0, 0.2),
        "traffic_cone": Body(0, 0, -15.0, 3.0, 0.0, 0.0),
        "barrier": Body(2, 0, 0.0, 3.0, 5.0, 0.0),
    },
    around=Surroundings(
        # Assumed: a pole or a sign is 1 m2, a patch of wall or leaves a tenth, and a wall met squarely 20 dB more. Of
        # ground 20 dB less than its area (grass at low grazing angles: Ulaby and Dobson, Handbook of radar scattering
        # statistics for terrain, 1989), which at 30 m is 0.4 m by 1.7 m in a cell of resolution, a square metre or so.
        metal=(0.0, 10.0),
        wall=(-10.0, 10.0),
        square_wall_db=20.0,
        other=(-10.0, 10.0),
        ground=(-20.0, 10.0),
        ground_cell_m=5.0,
        shadow_db=12.0,  # literature: 6 dB each way past an edge that is just in the way (ITU-R P.526)
        under_db=15.0,  # assumed
        reach_m=100.0,  # data sheet, near range
        wide_deg=75.0,  # assumed: a quarter more than the field of view
    ),
    receiver=Receiver(
        # Data sheet: what is seen at 100 m ahead is at 70 m at 45 degrees and at 20 m at 60, to the fourth power.
        # Assumed: further aside it falls on as steeply.
        pattern=((0, 0), (45, -6), (60, -28), (75, -50)),
        floor_dbsm=-15.0,  # assumed: the interface has a threshold of strength, which lets people pass
        noise_dbsm=-6.0,  # data sheet: a reach of 250 m, here for a car of 10 dBsm
        fluctuation=1.0,  # literature: Swerling's case I
        cells=(0.4, 3.2, 12.3, 0.12),  # data sheet, near range
        dynamic_db=20.0,  # assumed
        # Literature: the first sidelobe of an even array is 13 dB down, beyond the null at 5 degrees of a beam of 4.4
        # (data sheet); after a Hann window the next cell, 0.4 m on, is 6 dB down (Harris, On the use of windows,
        # Proc. IEEE 66, 1978). Assumed: every second detection has one of each.
        side_lobes=(0.5, 13.0, 3.0, 5.0, 2.0),
        neighbours=(0.5, 6.0, 3.0, 0.3, 0.4, 0.2),
        low=(-10.0, 2.0),  # assumed: below people
        sigma=(0.1, 0.3, 5.0, 0.03, 1.0),  # data sheet: 0.1 m, 0.3 and 5 degrees, 0.1 km/h; assumed: 1 dB
        glint=0.05,  # assumed, with its size
        glint_deg=3.0,
        lost_doppler=(0.05, 0.05),  # assumed, as is how often it is wrong
        aliased=0.5,
        alias_ms=10.0,  # physics: half a wavelength of 3.9 mm in 0.2 ms from ramp to ramp, which is assumed
        odometer=1.0,
        false_alarms=1.0,  # assumed
        alarm_ms=10.0,
        mirrors=0.5,  # assumed, 5 dB lost at each of two bounces
        mirror_db=10.0,
        # Literature: ITU-R P.838-3, about 11 dB/km one way at 77 GHz and 25 mm/h. The other three are assumed: what
        # interference costs varies with the traffic (Buller et al., Radar congestion study, NHTSA report DOT HS 812
        # 632, 2018).
        rain_db_per_m=0.022,
        wet_db=3.0,
        interference=0.02,
        interference_db=6.0,
        grid=(0.2, 0.25, 0.5),  # data sheet
    ),
    states=States(
        # Assumed: one in ten; still ones further away are less sure; two steps of the speed's grid.
        multi_target=0.1,
        artefact_50=0.1,
        staggered=0.5,
        candidate=(0.0, 0.5, 200.0),
        moves_ms=0.5,
    ),
    near_m=100.0,  # data sheet, as the next two
    far_m=250.0,
    far_deg=9.0,
)

CLEAR = "clear"
RADAR_OF = {"town": CLEAR, "city": "listed"}  # which radar a world has unless another is asked for
RADARS: dict[str, ListedRadar | None] = {CLEAR: None, "listed": LISTED}  # None: training.world.radar.scan_radar
ABOUT = (
    "clear: few returns, nearly all of them on objects, far better than a real radar; listed: with clutter, misses, "
    "ghosts and states, uncalibrated; or FILE.yaml with the numbers in which yours differs from listed"
)


def radar_named(name: str) -> ListedRadar | None:
    """One of RADARS, or of a file NAME.yaml that holds what differs from `listed`, by the names of its fields; lists
    stand as a whole.

    Raises ValueError for another name, and naming the file and the place for a key that `listed` does not have and for
    a value of another type; OSError for a file that cannot be read.
    """
    if name in RADARS:
        return RADARS[name]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"no radar profile {name!r}; choose one of {sorted(RADARS)} or a file NAME.yaml")
    plain = _merged(to_plain(LISTED), read_yaml(name))
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{name}: every number must be finite ({error})") from error
    radar: ListedRadar = from_plain(ListedRadar, plain, f"{name}:")
    return radar


def _merged(base: Any, changes: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(changes, Mapping):
        return {**base, **{key: _merged(base.get(key), value) for key, value in changes.items()}}
    return changes
