"""The active node as a deployment sees it (bev_perception.deployment.serving.Host)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bev_perception.bundle import Bundle
from bev_perception.deployment.serving import Observer, Serving
from bev_perception.frame_proof import open_proven
from bev_perception.inference.build_beside import BACKEND, build_beside
from bev_perception.inference.interface import InferenceBackend
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.pipeline import BevPipeline
from bev_perception.ros.run import ActiveRun, Model, make_pipeline
from bev_perception.signing import require_signature
from bev_perception.sync_config import MS


class ActiveNode:
    """thresholds(spec): least score of each class by the node's parameters. follow(model): what else of the node
    changes with the model in service; it returns at once. log: of what takes long. public_key: bundles must be signed
    with its other half, where there is one."""

    def __init__(
        self,
        run: ActiveRun,
        config: NodeConfig,
        thresholds: Callable[[ModelSpec], Mapping[str, float]],
        follow: Callable[[Model], None],
        log: Callable[[str], None],
        public_key: Path | None,
    ) -> None:
        self._public_key = public_key
        self._run, self._config, self._thresholds, self._follow, self._log = run, config, thresholds, follow, log
        self.serving, self.settle, self.unlike = run.serving, run.settle, run.unlike

    def period_ms(self) -> float:
        return self._config.sync_config(self._run.serving().bundle.spec).period_ns / MS

    def check(self, bundle: Bundle) -> None:
        key = self._public_key
        if key is None:
            return
        if not key.is_file():
            raise FileNotFoundError(
                f"the parameter `deploy.public_key` names {key}, and no such file is on this machine; put the key "
                "there, or name where it is and configure the node again"
            )
        require_signature(bundle.path, key)

    def open(self, bundle: Bundle, cancelled: Callable[[], bool]) -> InferenceBackend:
        config = self._config
        if config.backend == BACKEND:
            build_beside(bundle.path, config.backend_options, cancelled, self._log)
            if cancelled():
                raise RuntimeError("the build was ended, as the deployment is cancelled")
        backend, _ = open_proven(bundle, config.backend, **config.backend_options)
        return backend

    def pipeline(self, bundle: Bundle, backend: InferenceBackend) -> BevPipeline:
        return make_pipeline(Model(bundle, backend), self._config, self._thresholds(bundle.spec))

    def observe(self, observer: Observer | None) -> None:
        self._run.observe(observer)

    def switch(self, serving: Serving) -> None:
        self._run.switch(serving)
        self._follow(Model(serving.bundle, serving.pipeline.backend))
