"""Networks of students: plain nn.Module, torch only."""

from training.models.camera_radar import CameraRadarStudent

STUDENTS = {"camera_radar": CameraRadarStudent}
