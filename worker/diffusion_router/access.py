"""Whose a file is: a task may put its own job's, and read what its job's client sent."""

from __future__ import annotations

from diffusion_router.peers import messages
from diffusion_router.peers.sessions import Sessions
from diffusion_router.peers.tickets import Tickets
from diffusion_router.service import JobService
from diffusionpipeline.v1 import job_pb2


class Files:
    def __init__(self, service: JobService, sessions: Sessions, tickets: Tickets) -> None:
        self._service = service
        self._sessions = sessions
        self._tickets = tickets

    def may_put(self, header: job_pb2.UploadRequest.Header) -> bool:
        """Only the task that its job is at: a fenced worker's late file replaces nothing."""
        task = self._service.task(header.job_id)
        return task is not None and task.id == header.task_id and self._is_shown(task, header.ticket)

    def may_put_soon(self, header: job_pb2.UploadRequest.Header) -> bool:
        """Its worker was faster with the file than with its registration, after a restart of the router."""
        claimed = self._service.may_be_claimed(header.task_id, header.job_id)
        return claimed and self._tickets.admits(header.task_id, header.ticket)

    def may_read(self, request: job_pb2.DownloadRequest) -> bool:
        """What jobs made is for whoever has its key, as by HTTP; what clients sent, for the tasks of their jobs."""
        if not request.key.startswith("inputs/"):
            return True
        return any(
            self._is_shown(task, request.ticket) and self._reads(task, request.key) for task in self._asking(request)
        )

    def _asking(self, request: job_pb2.DownloadRequest) -> list[messages.Task]:
        """The task that names itself; workers of the time before tickets do not, so it may be any."""
        if not request.task_id:
            return self._service.tasks()
        task = self._service.task(request.task_id.partition(".")[0])
        return [task] if task is not None and task.id == request.task_id else []

    def _is_shown(self, task: messages.Task, ticket: bytes) -> bool:
        session = self._sessions.session(task.incarnation)
        # A worker of the time before tickets has none to show.
        older = session is not None and session.register.protocol < 1
        return older or self._tickets.admits(task.id, ticket)

    def _reads(self, task: messages.Task, key: str) -> bool:
        parameters = self._service.parameters(task.job_id)
        return parameters is not None and any(file.key == key for file in parameters.inputs)
