"""BEVDepth: its chains of stages (see published_chains.py), with and without refinement along the rays.

The recordings are in this repository, test/recordings/bevdepth_r50*.npz: names, shapes and numbers alone. They were
made with the authors' own modules (github.com/Megvii-BaseDetection/BEVDepth at d78c7b5 of January 2023, MIT; the ResNet
of mmdet 2.25.0, neck, head and box coder of mmdet3d 1.0.0rc4, layers of mmcv 1.6.0) on a CPU in float32 and eval mode.
The deformable convolution was replaced by the same mathematics in plain torch, pooling by sums in float64, and geometry
was computed in float64, too: in float32 2 of 473,088 points of this rig fall into a neighbouring cell. Weights are
drawn by name as in published.py, from the rows in `state`; inputs by name, too. `bevdepth_r50_small` has each module on
small inputs, the others two frames of six images of full size. Places are 48 or 64 of a stage, half of them not zero,
and 384 of what `moved` names: the earlier frame seen from 4 m further back and 3 degrees turned.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from published import TASKS, Golden, branch_in_ego, decoded, drawn, matched

from bev_perception.preprocess.images import pixels_from_source
from training.convert import bevdepth
from training.models.camera_vector import calibration_vector
from training.models.detector import Memory, Prediction
from training.models.frame import EGO

RECORDINGS = Path(__file__).resolve().parent / "recordings"
SMALL = "bevdepth_r50_small"
Stages = Iterator[tuple[str, float]]
VALID = torch.ones(1, 6)


def recording(name: str) -> Golden:
    return Golden(name, RECORDINGS / f"{name}.npz")


@cache
def bevdepth_state(refined: bool) -> dict[str, torch.Tensor]:
    """Names and tensors as the authors' file has them."""
    rows = json.loads(zlib.decompress(recording(SMALL)["state"].tobytes()))
    state = {row["key"]: torch.from_numpy(drawn(row)) for row in rows if row["kind"] != "constant"}
    if not refined:
        state = {name: tensor for name, tensor in state.items() if "depth_aggregation_net" not in name}
    return state | bevdepth.table().constant


def pictures(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """RGB as Pillow gives it, uint8."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"small/{name}".encode())))
    return rng.integers(0, 256, shape).astype(np.uint8)


def as_images(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1]))[None]


def number(name: str, shape: tuple[int, ...], signed: bool = True) -> torch.Tensor:
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"small/{name}".encode())))
    value = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    return value if signed else value.clamp(min=0)


def rig(golden: Golden, centred: bool = False) -> torch.Tensor:
    """(1, 6, 4, 4) float64: projections of the recorded cameras into images of 256 x 704. centred: the vehicle's, whose
    pixels have their places at their centres; the published code has them at their corners."""
    published = np.array([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]])
    image = pixels_from_source(1600, 900, bevdepth.run(EGO).spec.image) if centred else published
    found = []
    for ego_from_cam, k in zip(golden["sensor2ego"].astype(np.float64), golden["intrinsics"].astype(np.float64)):
        matrix = np.eye(4)
        matrix[:3, :3] = image @ k
        found.append(matrix @ np.linalg.inv(ego_from_cam))
    return torch.from_numpy(np.stack(found))[None]


def turned(maps: torch.Tensor) -> torch.Tensor:
    """Rows y and columns x, as recorded, <-> rows x and columns y."""
    return maps.transpose(-1, -2)


def heads(golden: Golden, heatmap: torch.Tensor, regression: torch.Tensor) -> Stages:
    for task in range(len(TASKS)):
        for name in bevdepth.HEAD.values():
            stage = f"head.task_heads.{task}.{name}"
            yield stage, golden.off(stage, turned(branch_in_ego(name, task, heatmap, regression)))


def depth_net(network: torch.nn.Module, golden: Golden) -> Stages:
    net = network.camera.depth
    vector = calibration_vector(rig(golden, centred=True)[:, :2].float(), VALID[:, :2], (256, 704))[0]
    theirs = torch.from_numpy(golden["vector"])
    yield "depth_net.vector", float(((vector - theirs).abs() / theirs.abs().clamp(min=1)).max())
    x = net.reduce(number("depth_net", (2, 512, 8, 20), signed=False))
    told = net.camera_norm(vector)
    depth, context = net.depth_gate(x, told), net.context_gate(x, told)
    stages = {"reduce_conv": x, "depth_se": depth, "context_se": context, "context": net.context(context)}
    names = {2: "depth_conv.2", 3: "depth_conv.3", 4: "depth_conv.4", 5: "depth"}
    for i, layer in enumerate(net.depth):
        depth = layer(depth)
        stages |= {names[i]: depth} if i in names else {}
    for name, found in stages.items():
        yield f"depth_net.{name}", golden.off(f"depth_net.{name}", found)


def lift(network: torch.nn.Module, golden: Golden) -> Stages:
    """The exact sums, of rays and of points, over the whole frustum."""
    depth = (2 * number("depth", (6, 112, 16, 44)))[None].softmax(dim=2)
    context, volume = number("context", (6, 8, 16, 44))[None], number("volume", (6, 8, 112, 16, 44))[None]
    found = network.camera.lift(context, depth, rig(golden), VALID, (256, 704))
    yield "lift.bev", golden.off("lift.bev", turned(found))
    found = network.camera.lift.points(volume, rig(golden), VALID, (256, 704))
    yield "lift.rows", golden.off("lift.rows", turned(found))


def with_age(both: torch.Tensor) -> torch.Tensor:
    """The two channels that ours has besides: where the earlier map was seen, and its age."""
    age = torch.full_like(both[:, :1], 0.5)
    return torch.cat([both, torch.ones_like(age), age], dim=1)


def small(network: torch.nn.Module) -> Stages:
    golden = recording(SMALL)
    image = network.camera.image
    rgb = pictures("pictures", (2, 64, 96, 3))
    x = ((as_images(rgb)[0].float() - image.image_mean) / image.image_std).permute(0, 3, 1, 2)
    yield "image.normalised", golden.off("image.normalised", x)
    for i, found in enumerate(image.backbone(x)):
        yield f"img_backbone.layer{i + 1}", golden.off(f"img_backbone.layer{i + 1}", found)
    yield "img_neck.output", golden.off("img_neck.output", image(as_images(rgb))[0])
    yield from depth_net(network, golden)
    yield from lift(network, golden)
    if network.config.camera.rows:
        frustum = number("frustum", (1, 80, 14, 2, 9))
        found = network.camera.refine(frustum[0].permute(2, 0, 1, 3)).permute(1, 2, 0, 3)[None]
        yield "depth_aggregation_net.output", golden.off("depth_aggregation_net.output", found)
    maps = network.tail.encoder(with_age(turned(number("bev", (1, 160, 24, 40), signed=False))))
    yield from trunk(golden, maps)
    yield from heads(golden, *network.tail.head(turned(number("head", (1, 256, 12, 20), signed=False)))[:2])


def trunk(golden: Golden, maps: dict[str, torch.Tensor]) -> Stages:
    for stage, name in (*((f"head.trunk.layer{i}", f"encoder{i}") for i in (1, 2, 3)), ("head.neck.output", "neck")):
        yield stage, golden.off(stage, turned(maps[name]))


def boxes(network: torch.nn.Module, golden: Golden, prediction: Prediction, which: str) -> Stages:
    """What the published decoder gives, with circles: x y z l w h yaw vx vy, score, label."""
    theirs = golden[f"{which}/boxes"].astype(np.float64)
    yield f"{which}: boxes", matched(decoded(network, prediction), theirs[:, [*range(9), 10]])


def by_rule(network: torch.nn.Module, prediction: Prediction) -> Stages:
    """prediction: of maps drawn with rows y."""
    maps = Prediction(turned(prediction.heatmap), turned(prediction.regression))
    yield from boxes(network, recording(SMALL), maps, "decode/rule")


def full(network: torch.nn.Module) -> Stages:
    golden = recording("bevdepth_r50_da" if network.config.camera.rows else "bevdepth_r50")
    rgb = pictures("full", (12, 256, 704, 3))
    maps = []
    for which, images in (("current", rgb[:6]), ("earlier", rgb[6:])):
        features = network.camera.image(as_images(images))
        yield f"img_neck.{which}", golden.off(f"img_neck.{which}", features[0])
        # The published vector is of the centred projection, the published rays of the cornered one.
        told = rig(golden, centred=True).float()
        logits, context = network.camera.depth(features, told, VALID, (256, 704))
        depth = logits.softmax(dim=2)
        yield f"depth.{which}", golden.off(f"depth.{which}", depth[0])
        yield f"context.{which}", golden.off(f"context.{which}", context[0])
        maps.append(network.camera.lifted(context, depth, rig(golden), VALID))
        yield f"bev.{which}", golden.off(f"bev.{which}", turned(maps[-1]))
    one = torch.ones(1, 1)
    still = network.tail(maps[0], Memory(maps[1], torch.eye(4)[None], one, 0.5 * one), {})
    yield from trunk(golden, still.features)
    yield from heads(golden, still.heatmap, still.regression)
    yield from boxes(network, golden, still, "decode/network")
    current_from_earlier = torch.from_numpy(golden["current_from_earlier"]).float()
    memory = Memory(maps[1], torch.linalg.inv(current_from_earlier)[None], one, 0.5 * one)
    yield "moved: the earlier map", golden.off("bev.moved", turned(network.tail.temporal.align(memory)[0]))
    moved = network.tail(maps[0], memory, {})
    for name, channels in (("heatmap", 10), ("vel", 12)):
        found = [branch_in_ego(name, task, moved.heatmap, moved.regression) for task in range(len(TASKS))]
        assert sum(f.shape[1] for f in found) == channels
        yield f"moved: {name}", golden.off(f"moved.{name}", turned(torch.cat(found, dim=1)))
