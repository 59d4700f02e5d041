"""What docs/react-vue.md prints, bundled as an application's builder does, and used in Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.docs.pages import blocks
from tests.servers.conftest import Serve
from tests.servers.crowd import ask
from tests.servers.serving import NODE_FOLDER, READY_SECONDS, ROOT, Program, node, until

MODULE = ROOT / "src" / "sse_starlette" / "browser" / "eventsource.js"
PAGES = {
    "jsx": """
        import { StrictMode } from "react";
        import { createRoot } from "react-dom/client";
        import { Prices } from "./printed.jsx";
        const root = createRoot(document.getElementById("app"));
        root.render(<StrictMode><Prices /></StrictMode>);
        globalThis.leave = () => root.unmount();
    """,
    "js": """
        import { createApp, h } from "vue";
        import { usePrices } from "./printed.js";
        const app = createApp({
          setup() {
            const { prices, state } = usePrices("/prices");
            return () => h("p", { class: state.value }, prices.value.ACME ?? "…");
          },
        });
        app.mount("#app");
        globalThis.leave = () => app.unmount();
    """,
}


@pytest.mark.parametrize("language", PAGES)
def test_component_shows_what_comes_on_one_stream_until_it_is_unmounted(
    serve: Serve, page: Page, tmp_path: Path, language: str
) -> None:
    server = serve("prices:app")
    (printed,) = [each for each in blocks(language) if each.page.name == "react-vue.md"]
    (tmp_path / f"printed.{language}").write_text(printed.text, "utf-8")
    (tmp_path / f"main.{language}").write_text(PAGES[language], "utf-8")
    (tmp_path / "eventsource.js").symlink_to(MODULE)
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    bundle = tmp_path / "bundle.js"
    esbuild = NODE_FOLDER / "node_modules" / "esbuild" / "bin" / "esbuild"
    options = ["--bundle", "--preserve-symlinks", "--jsx=automatic", f"--outfile={bundle}"]
    options += ["--define:__VUE_OPTIONS_API__=true", "--define:__VUE_PROD_DEVTOOLS__=false"]
    options += ["--define:__VUE_PROD_HYDRATION_MISMATCH_DETAILS__=false"]
    with Program([node(), esbuild, f"main.{language}", *options], cwd=tmp_path) as building:
        assert building.wait(READY_SECONDS) == 0, building.lines
    body = f"<div id=app></div><script>{bundle.read_text('utf-8')}</script>"
    page.route(
        "**/page", lambda route: route.fulfill(body=body, content_type="text/html; charset=utf-8")
    )
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)

    page.goto(f"{server.url}/page")
    expect(page.locator("p.open")).to_have_text("…")
    assert until(lambda: ask(server, "/stats")["subscribers"] == 1)
    for amount in ("12", "13"):
        ask(server, "/publish", symbol="ACME", amount=amount)
        expect(page.locator("p.open")).to_have_text(amount)
    assert ask(server, "/stats")["subscribers"] == 1
    page.evaluate("leave()")

    assert until(lambda: ask(server, "/stats")["subscribers"] == 0)
    assert faults == []
