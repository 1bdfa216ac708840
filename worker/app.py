"""The Celery application of a fleet: `celery -A worker.app worker` and `… beat` run it."""

import os

from tasks.annotate import engines_here
from tasks.board import targets_of
from tasks.broker import broker_url, make_app, queues_for
from tasks.state import fleet_state
from worker import jobs
from worker.fleet import FleetStation
from worker.limits import read_limits

state = fleet_state()
app = make_app(broker_url())
# What Celery takes from without -Q, made as producers make the queues they name: RabbitMQ
# refuses a queue that is declared in two ways.
for name in queues_for(engines_here(), targets_of(os.environ.get("MASKMILL_TARGET", "").split())):
    app.amqp.queues.select_add(app.amqp.queues[name])
app.conf.worker_consumer = "worker.consumer:KeepingConsumer"
# The tasks' station follows up. Plain Celery starts without our own command.
jobs.station = FleetStation(app=app, state=state, limits=read_limits())
