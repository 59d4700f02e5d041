"""An A2A agent that says one thing at once, and another when a file is there."""

from __future__ import annotations

import anyio
from a2a.helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.applications import Starlette


class Agent(AgentExecutor):
    """Takes the path of that file as its message."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        task = new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        await updater.add_artifact([new_text_part("first")])
        awaited = anyio.Path(context.get_user_input())
        while not await awaited.exists():  # noqa: ASYNC110  (set by another process)
            await anyio.sleep(0.02)
        await updater.add_artifact([new_text_part("second")])
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


def agent(shutdown_grace_period: float) -> Starlette:
    card = AgentCard(
        name="an agent",
        description="of a dependent",
        version="1",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        # The clients of the tests bring cards of their own: this one can't know its port.
        supported_interfaces=[
            AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url="/rpc")
        ],
        skills=[AgentSkill(id="talk", name="talk", description="says two things", tags=["talk"])],
    )
    handler = DefaultRequestHandler(Agent(), InMemoryTaskStore(), card)
    options = {"enable_v0_3_compat": True, "shutdown_grace_period": shutdown_grace_period}
    return Starlette(
        routes=[
            *create_jsonrpc_routes(handler, "/rpc", **options),
            *create_rest_routes(handler, path_prefix="/rest", **options),
        ]
    )


def at_once() -> Starlette:
    """Shuts down without waiting for the agent."""
    return agent(0)


def patient() -> Starlette:
    """Gives the agent time to finish."""
    return agent(60)
