"""The app that Celery's workers have in engine_kills.py, with hours that are seconds."""

from engine_app import create_app
from faults_worker import hurry

celery_app = create_app().extensions["celery"]
hurry()
