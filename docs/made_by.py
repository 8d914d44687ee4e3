"""Which command makes each file of docs/data. Not in `measured`, whose code marks every plot as old when it changes."""

from __future__ import annotations

# Which command makes a file of numbers; files of names are written by hand.
STUDY = (
    "python -m training.study training.experiments.{} --data DATA --out OUT --seeds 0 1 2, which writes OUT/results.csv"
)
WORTH = "python -m training.compare_uncertainty HEADS --data DATA --out docs/data"
RADARS = "python -m training.world.compare_radar --drives 8 --seed 720000 --out OUT, its tables"
MADE_BY = {
    "distillation_results.csv": STUDY.format("distillation:study"),
    "distillation_ablations.csv": STUDY.format("distillation:study"),
    "distillation_search.csv": STUDY.format("distillation:search"),
    "near_results.csv": STUDY.format("near:study"),
    "near_city.csv": STUDY.format("near:study"),
    "demo_scores.json": "python -m training.evaluate MODEL --data DATA --sensors all no_temporal camera radar --out IT",
    "blanked_scores.json": "python -m training.evaluate MODEL --data DATA --scenes 6 --sensors all blank:CAM --out IT",
    "velocity.csv": "python -m training.velocity MODEL --data DATA --out IT",
    "decoding.csv": "python -m training.decoding MODEL --data DATA --out IT",
    "latency.csv": "make demo, then python -m bev_perception.evaluation.bench --only latency",
    "soak.csv": "python -m bev_perception.evaluation.soak --out IT",
    "radar_clear.csv": RADARS,
    "radar_listed.csv": RADARS,
    "learning_curves.csv": "python -m docs.learning_curves NAME=RUN_FOLDER",
    "platforms.csv": "make platforms",
    "choosing_scale.csv": "python -m training.data_engine.scale --out IT",
    "health.json": "python -m training.health BUNDLE --data DATA --out OUT, which writes OUT/health.json",
    "long_range.csv": "python -m training.long_range measure --data DATA --model NAME=MODEL --radar --out IT",
    "robustness.json": "python -m training.robustness MODEL --data DATA --out OUT, which writes OUT/robustness.json",
    "uncertainty_ways.csv": WORTH,
    "uncertainty_coverage.csv": WORTH,
    "uncertainty_reliability.csv": WORTH,
    "circle.json": "make circle, then a copy of out/circle/summary.json",
}
