"""The report's page in a real browser: it loads without an error or a request, and its legend and tables work."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runner.synthetic_runs import make_run
from runner.test_report import make_hundred

from memrl.runner.report import ReportOptions, write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)
ENVS = ("popgym/RepeatFirstEasy", "popgym/RepeatPreviousEasy")

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium-driver"
    ),
    pytest.mark.xdist_group("chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for env in ENVS:
        make_run(folder / env / "gru", env=env, core="gru", returns=(0.0, 0.1, 0.2))
        make_run(folder / env / "s5", env=env, core="s5", returns=(0.8, 0.9, 1.0))
        make_run(folder / env / "mlp", env=env, core="mlp", returns=(-0.5, -0.4, -0.45))
    return write_report([folder], folder / "report.html", ReportOptions(repetitions=50)).page


def opened(browser: Any, page: Path) -> Any:
    """The page, scrolled through so that all charts are drawn."""
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    script = """
        const waiting = [...document.querySelectorAll("[data-chart]")].filter((e) => !e.querySelector(".main-svg"));
        waiting[0]?.scrollIntoView();
        return waiting.length;
    """
    wait_for(lambda: browser.execute_script(script) == 0)
    return browser


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def column(browser: Any, table: str, index: int) -> list[str]:
    script = (
        f"return [...document.querySelectorAll('#{table} tbody tr')].map((r) => r.cells[{index}].dataset.value ?? '')"
    )
    return browser.execute_script(script)


def lines_of(browser: Any, label: str) -> int:
    """Curves of a label that are drawn, in all charts."""
    script = """
        return [...document.querySelectorAll("[data-chart]")].flatMap((e) => e.calcdata ?? [])
            .filter((points) => points[0]?.trace?.name === arguments[0] && points[0].trace.visible === true).length;
    """
    return browser.execute_script(script, label)


def test_it_loads_without_an_error_or_a_request(browser: Any, page: Path):
    opened(browser, page)
    assert browser.get_log("browser") == []
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    own = [url for url in urls if not url.startswith(("data:", "blob:", "chrome"))]
    assert own == [page.as_uri()]


def test_a_legend_click_hides_a_curve(browser: Any, page: Path):
    opened(browser, page)
    button = browser.find_element("css selector", ".legend [data-label='gru']")
    before, others = lines_of(browser, "gru"), lines_of(browser, "s5")
    assert before > 0
    button.click()
    wait_for(lambda: lines_of(browser, "gru") == 0)
    assert button.get_attribute("aria-pressed") == "false"
    assert lines_of(browser, "s5") == others
    button.click()
    wait_for(lambda: lines_of(browser, "gru") == before)
    everything = browser.find_element("css selector", ".legend .all")
    everything.click()
    wait_for(lambda: lines_of(browser, "s5") == 0)
    everything.click()
    wait_for(lambda: lines_of(browser, "s5") == others)


def test_the_table_sorts_and_filters(browser: Any, page: Path):
    opened(browser, page)
    heads = browser.find_elements("css selector", "#results-table th")
    titles = [head.text.split()[0] for head in heads]
    scores = titles.index("return")
    button = heads[scores].find_element("css selector", "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    for order, sign in (("descending", -1), ("ascending", 1)):
        button.click()
        assert heads[scores].get_attribute("aria-sort") == order
        values = [float(value) for value in column(browser, "results-table", scores)]
        assert values == sorted(values, key=lambda value: sign * value)
        assert values != sorted(values, key=lambda value: -sign * value)
    heads[titles.index("core")].find_element("css selector", "button").click()
    cores = column(browser, "results-table", titles.index("core"))
    assert cores == sorted(cores)
    search = browser.find_element("css selector", "input[data-filter]")
    search.send_keys("S5 first")
    rows = browser.find_elements("css selector", "#results-table tbody tr")
    assert sum(row.is_displayed() for row in rows) == 1


def test_it_follows_the_reader_into_the_dark(browser: Any, page: Path):
    opened(browser, page)
    color = "return getComputedStyle(document.body).backgroundColor"
    line = "return document.querySelector('[data-chart] .gridlayer path')?.style.stroke"
    light = browser.execute_script(color), browser.execute_script(line)
    dark_mode = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_mode)
    wait_for(lambda: browser.execute_script(line) != light[1])
    assert browser.execute_script(color) != light[0]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
def test_a_hundred_runs_open_quickly(browser: Any, tmp_path: Path):
    make_hundred(tmp_path / "runs", updates=200)
    page = write_report([tmp_path / "runs"], tmp_path / "report.html", ReportOptions(repetitions=200)).page
    opened(browser, page)
    opened(browser, page)
    script = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    assert browser.execute_script(script) < 2000
