"""Networks of students: plain nn.Module, torch only."""

from training.models.camera_radar import CameraRadarStudent, StudentConfig
from training.models.detector import Family

STUDENTS = {"camera_radar": Family(CameraRadarStudent, StudentConfig)}
