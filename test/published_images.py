"""BEVDet and BEVDet4D: their recorded rigs, and their chains of stages (see published_chains.py)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from published import NOMINAL, TASKS, Golden, boxes_to_ego, candidates, decoded, heads, matched

from training.models.detector import Memory, Prediction
from training.models.frame import EGO, Frame

Stages = Iterator[tuple[str, float]]
MMDET3D = ("reg", "height", "dim", "rot", "vel", "heatmap")
EXACT = EGO  # the network's own axes, rows and columns of the recording: nothing is turned
# RGB, as the published code normalises its images.
MEAN, STD = np.array([123.675, 116.28, 103.53], dtype=np.float32), np.array([58.395, 57.12, 57.375], dtype=np.float32)


def rig_inputs(golden: Golden, suffix: str = "", frame: Frame = NOMINAL) -> dict[str, torch.Tensor]:
    """Projections of the recorded cameras from the ego frame, or float64 ones from LIDAR_TOP itself (`EXACT`), where
    the recording computed; suffix: of the extrinsics."""
    rots, trans = golden[f"rig/rots{suffix}"][0].astype(np.float64), golden[f"rig/trans{suffix}"][0].astype(np.float64)
    k, post = golden["rig/intrins"][0].astype(np.float64), golden["rig/post_rots"][0].astype(np.float64)
    projections = []
    ego_from_lidar = frame.ego_from_network() @ np.eye(4)[[1, 0, 2, 3]]
    for i in range(len(rots)):
        lidar_from_cam, augmented = np.eye(4), np.eye(4)
        lidar_from_cam[:3, :3], lidar_from_cam[:3, 3] = rots[i], trans[i]
        augmented[:3, :3] = post[i] @ k[i]  # rows and columns, not depth
        augmented[:2, :3] += np.outer(golden["rig/post_trans"][0, i, :2], k[i][2])
        projections.append(augmented @ np.linalg.inv(ego_from_lidar @ lidar_from_cam))
    img_from_ego = torch.from_numpy(np.stack(projections))[None]
    img_from_ego = img_from_ego if frame == EXACT else img_from_ego.float()
    return {"img_from_ego": img_from_ego, "camera_valid": torch.ones(1, len(rots))}


def as_images(normalised: np.ndarray) -> torch.Tensor:
    """(N, 3, H, W) RGB -> (1, N, H, W, 3) BGR, 0..255, not rounded: what a camera branch normalises to that."""
    rgb = normalised.transpose(0, 2, 3, 1) * STD + MEAN
    return torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1]))[None]


def resnet(golden: Golden, network: torch.nn.Module, images: torch.Tensor) -> Stages:
    backbone = network.camera.image.backbone
    stem = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
    yield "img_backbone.stem", golden.off("img_backbone.stem", stem)
    maps = backbone(images)
    for i, found in enumerate(maps):
        yield f"img_backbone.layer{i + 1}", golden.off(f"img_backbone.layer{i + 1}", found)
    yield "img_neck.output", golden.off("img_neck.output", network.camera.image.neck(maps[2:])[0])


def encoder(golden: Golden, network: torch.nn.Module, bev: torch.Tensor, neck: torch.Tensor | None) -> Stages:
    """neck: a head input of its own."""
    maps = network.tail.encoder(bev)
    for i in range(3):
        stage = f"img_bev_encoder_backbone.layers.{i}"
        yield stage, golden.off(stage, maps[f"encoder{i + 1}"])
    yield "img_bev_encoder_neck.output", golden.off("img_bev_encoder_neck.output", maps["neck"])
    head = network.tail.head
    found = head(maps["neck"] if neck is None else neck)
    yield from heads(golden, "pts_bbox_head.task_heads", MMDET3D, found, pcdet=False)


def mmdet3d_boxes(network: torch.nn.Module, golden: Golden, prediction: Prediction, which: str) -> Stages:
    """What enters NMS: the 500 best of each class, then of the task, above 0.1."""
    for task, names in enumerate(TASKS):
        theirs = golden[f"{which}/candidates/{task}"].astype(np.float64)  # x y z w l h r vx vy score label
        yaw = -theirs[:, 6] - np.pi / 2
        box = boxes_to_ego(np.column_stack([theirs[:, :3], theirs[:, [4, 3, 5]], yaw, theirs[:, 7:9]]))
        boxes, scores, labels = candidates(prediction, network.spec.grid, task)
        scores = scores.reshape(len(names), -1)
        best = [i * scores.shape[1] + np.argsort(-row, kind="stable")[:500] for i, row in enumerate(scores)]
        order = np.concatenate(best)
        order = order[np.argsort(-scores.ravel()[order], kind="stable")][:500]
        order = order[scores.ravel()[order] > 0.1]
        order = order[(np.abs(_lidar(boxes[order])) <= (61.2, 61.2, 10)).all(axis=1)]
        found = np.column_stack([boxes[order], labels[order] - min(labels)])
        yield f"{which}: boxes of task {task} before NMS", matched(found, np.column_stack([box, theirs[:, 10]]))
    theirs = golden[f"{which}/bboxes_bottom_centre"].astype(np.float64)  # x y z w l h r vx vy
    middle = theirs[:, 2] + theirs[:, 5] / 2
    box = np.column_stack([theirs[:, :2], middle, theirs[:, [4, 3, 5]], -theirs[:, 6] - np.pi / 2, theirs[:, 7:9]])
    theirs = np.column_stack([boxes_to_ego(box), golden[f"{which}/labels"]])
    yield f"{which}: boxes", matched(decoded(network, prediction), theirs)


def _lidar(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :3] - np.array(NOMINAL.origin)


def lift_small(network: torch.nn.Module) -> Stages:
    golden = Golden("bevdet_r50_small")
    inputs = rig_inputs(golden, frame=EXACT)
    depth = golden.input("lift.depth_logits.input", "depth", signed=True, scale=2)[None].softmax(dim=2)
    context = golden.input("lift.context.input", "context", signed=True)[None]
    bev = network.camera.lift(context, depth, inputs["img_from_ego"], inputs["camera_valid"], (256, 704))
    yield "lift.bev (C,y,x)", golden.off("lift.bev (C,y,x)", bev)


ALL = torch.ones(1, 6)


def warped(network: torch.nn.Module, golden: Golden, adjacent: torch.Tensor) -> torch.Tensor:
    """The earlier map as the current frame sees it: the motion is said in the ego frame and turned."""
    lidar_motion = golden["rig/adjacent_to_current_lidar"].astype(np.float64)
    ego_from_lidar = NOMINAL.ego_from_network() @ np.eye(4)[[1, 0, 2, 3]]
    prev_from_curr = ego_from_lidar @ np.linalg.inv(lidar_motion) @ np.linalg.inv(ego_from_lidar)
    one = torch.ones(1, 1)
    memory = network.turn.memory(Memory(adjacent, torch.from_numpy(prev_from_curr)[None].float(), one, 1.5 * one))
    return network.tail.temporal.align(memory)[0]


def bevdet4d_small(network: torch.nn.Module) -> Stages:
    golden = Golden("bevdet4d_r50_small")
    stage = "pre_process_net.output"
    yield stage, golden.off(stage, network.before(golden.input("pre_process_net.input", "pre_process")))
    shifted = warped(network, golden, golden.input("shift.input", "shift", signed=True))
    yield "shift.output", golden.off("shift.output", shifted)
    bev = golden.input("img_bev_encoder.input", "bev")
    yield from encoder(golden, network, with_age(bev), golden.input("pts_bbox_head.input", "head"))


def with_age(both: torch.Tensor) -> torch.Tensor:
    """The two channels that ours has besides: where the earlier map was seen, and its age."""
    age = torch.full_like(both[:, :1], 1.5)
    return torch.cat([both, torch.ones_like(age), age], dim=1)


def bevdet4d_full(network: torch.nn.Module) -> Stages:
    golden = Golden("bevdet4d_r50")
    rng = np.random.Generator(np.random.PCG64(5))
    drawn = rng.standard_normal((12, 3, 256, 704)).astype(np.float32)
    maps = []
    for which, images in (("current", drawn[0::2]), ("adjacent", drawn[1::2])):
        # Both with the current extrinsics, as published.
        bev = network.camera(rig_inputs(golden, frame=EXACT) | {"images": as_images(images)}).bev
        stage = f"img_view_transformer.bev.{which} (C,y,x)"
        yield stage, golden.off(stage, bev)
        maps.append(network.before(bev))
        yield f"pre_process_net.{which}", golden.off(f"pre_process_net.{which}", maps[-1])
    shifted = warped(network, golden, maps[1])
    yield "shifted adjacent map", golden.off("shifted adjacent map", shifted)
    both = torch.cat([maps[0], shifted], dim=1)
    yield "concatenated (current, adjacent)", golden.off("concatenated (current, adjacent)", both)
    yield from encoder(golden, network, with_age(both), None)
    neck = network.tail.encoder(with_age(both))["neck"]
    heatmap, regression, _ = network.tail.head(neck)
    # The recorded boxes hold metres between the frames; ours are m/s of the interval that is given.
    dt = torch.full((1, 1), 1.5)
    memory = Memory(maps[1], torch.eye(4)[None], dt, dt)
    prediction = network.turn.prediction(Prediction(heatmap, network._per_second(regression, memory)))
    prediction.regression[:, :, 8:] *= 1.5
    yield from mmdet3d_boxes(network, golden, prediction, "decode/network")


def golden_off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def bevdet_small(network: torch.nn.Module) -> Stages:
    golden = Golden("bevdet_r50_small")
    # Drawn RGB; the backbone takes BGR.
    yield from resnet(golden, network, golden.input("img_backbone.input", "image", signed=True).flip(1))
    yield from lift_small(network)
    yield from encoder(
        golden, network, golden.input("img_bev_encoder.input", "bev"), golden.input("pts_bbox_head.input", "head")
    )


def bevdet_full(network: torch.nn.Module) -> Stages:
    golden = Golden("bevdet_r50")
    rng = np.random.Generator(np.random.PCG64(3))
    images = {"images": as_images(rng.standard_normal((6, 3, 256, 704)).astype(np.float32))}
    lifted = network.camera(rig_inputs(golden, frame=EXACT) | images)
    yield "img_view_transformer.depth", golden.off("img_view_transformer.depth", lifted.depth[0])
    yield "img_view_transformer.context", golden.off("img_view_transformer.context", lifted.context[0])
    yield "img_view_transformer.bev (C,y,x)", golden.off("img_view_transformer.bev (C,y,x)", lifted.bev)
    yield from encoder(golden, network, lifted.bev, None)
    prediction = network.turn.prediction(network.tail(lifted.bev, None, {}))
    yield from mmdet3d_boxes(network, golden, prediction, "decode/network")
    # As the vehicle gives it: projections of 32 bits from the ego frame put some points of 221,000 beside their cell.
    bev = network.camera.lift(
        lifted.context, lifted.depth, network.turn.inputs(rig_inputs(golden))["img_from_ego"], ALL, (256, 704)
    )
    yield "the lift of projections in the ego frame, float32", golden_off(bev, lifted.bev)
