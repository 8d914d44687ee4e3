"""The ament_python package `bev_perception`; its version is also in package.xml (test_packaging.py compares)."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "bev_perception"

setup(
    name=NAME,
    version="0.1.0",
    description="3D object detection in bird's-eye view from surround cameras and radars, with temporal fusion",
    maintainer="bev_perception maintainers",
    maintainer_email="maintainers@bev-perception.example.org",
    license="Apache-2.0",
    python_requires=">=3.10",
    # `training` travels along so that `pip install .[training]` has it; the runtime never imports it
    # (test_import_boundaries.py) and its dependencies are an extra.
    packages=find_packages(include=["bev_perception", "bev_perception.*", "training", "training.*"]),
    package_data={NAME: ["bundles/**/*", "config/**/*", "evaluation/*.css", "evaluation/*.js"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(str(path) for path in Path("launch").glob("*.launch.py"))),
        (f"share/{NAME}/config", sorted(str(path) for path in Path(NAME, "config").glob("*") if path.is_file())),
    ],
    install_requires=["numpy", "opencv-python-headless<5", "pyyaml", "onnxruntime", "rosbags"],
    extras_require={
        "tensorrt": ["tensorrt", "pycuda", "onnx"],
        "evaluation": ["nuscenes-devkit==1.2.0", "matplotlib", "trimesh", "embreex"],
        "training": [
            "torch==2.13.0",  # the version that trained and exported the shipped model
            "lightning",
            "onnx",
            "onnxscript",
            "scipy",
            "tensorboard",
            "nuscenes-devkit==1.2.0",
            "trimesh",
            "embreex",
        ],
        "test": ["pytest", "ruff", "mypy"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "perception_node = bev_perception.ros.node:main",
            "build_engine = bev_perception.inference.build_engine:main",
            "replay = bev_perception.replay:main",
            "play_bag = bev_perception.ros.play_bag:main",
            "record_bag = bev_perception.ros.record_bag:main",
        ],
    },
)
