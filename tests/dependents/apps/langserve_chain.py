"""A LangServe application with one runnable, which spells a text word by word."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from fastapi import FastAPI
from langchain_core.runnables import RunnableGenerator
from langserve import add_routes


async def spell(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yields each word, except for `wait` and `fail`, which it does."""
    text = ""
    try:
        async for text in texts:
            for word in text.split():
                if word == "fail":
                    raise RuntimeError("this word can't be spelled")
                if word == "wait":
                    await anyio.sleep_forever()
                yield f"{word} "
    finally:
        print(f"the spelling of {text!r} has ended", flush=True)


def application() -> FastAPI:
    app = FastAPI()
    chain = RunnableGenerator(spell).with_types(input_type=str, output_type=str)
    add_routes(app, chain, path="/spell")
    return app
