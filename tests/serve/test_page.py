"""The page: no external files, user text never becomes HTML, and a browser run."""

import itertools
import json
import re
import subprocess

import browser
import driven
from serving import started
from small_student import PLAN, new_student

from nestling.serve.keys import SCOPES, Keys, database_in
from nestling.serve.model import serve_model
from nestling.serve.routes.page import FILES, FOLDER


def test_page_uses_no_other_host_and_no_inner_html(http):
    page = http.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert set(named) <= {*FILES, "data:,"}
    assert {file.name for file in FOLDER.iterdir()} == {*FILES, "index.html"}
    for name in ("", *FILES):
        text = http.get(f"/{name}").text
        assert "http://" not in text and "https://" not in text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert not re.search(
            r"<script>|<style|\sstyle=|\son\w+=\"", text
        )  # the policy refuses them
    for name in set(re.findall(r'at\("([\w-]+)"\)', http.get("/page.js").text)):
        assert f'id="{name}"' in page.text


def test_page_runs_in_a_browser(http, tmp_path):
    http.post("/v1/memories", json={"id": "seen-on-the-page"})
    program = browser.browser()
    flags = [*browser.FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", str(http.base_url)]
    done = subprocess.run([program, *flags], capture_output=True, text=True, check=False)
    assert '<strong id="model">tiny</strong>' in done.stdout
    assert "seen-on-the-page" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]


TEXT = """About Lelidis Zikipot
Lelidis Zikipot keeps a goat at home. Lelidis Zikipot was born in Padua."""
QUESTIONS = {
    "What does Lelidis Zikipot keep?": "goat",
    "What does Lelidis Zikipot keep at home?": "goat",
    "What keeps a goat at home?": "Zikipot",
}


def sent(form, **fields):
    """JavaScript that fills and submits a form."""
    filled = [f"at({name!r}).value = {json.dumps(value)};" for name, value in fields.items()]
    return f"(() => {{ {AT} {''.join(filled)} at({form!r}).requestSubmit(); }})()"


AT = "const at = (id) => document.getElementById(id);"
PROGRESS = 'document.getElementById("progress").value'
ANSWERED = """[...document.querySelectorAll(".answers:last-child > div")]
  .map((one) => one.lastElementChild.textContent)"""


def test_document_learned_on_the_page_is_known(tmp_path):
    browser.browser()
    served = serve_model(new_student().base, name="student")
    with (
        started(served, tmp_path / "store", PLAN) as http,
        driven.opened(str(http.base_url), tmp_path) as page,
    ):
        page.wait('document.getElementById("model")?.textContent === "student"')
        page(sent("new", name="notes"))
        page.wait('!document.getElementById("learn").hidden')
        page(sent("learn", title="one.txt", text=TEXT))
        seen = [page.wait(f"{PROGRESS} > 0 && {PROGRESS} < 1 && {PROGRESS}")]
        seen.append(page.wait(f"{PROGRESS} > {seen[0]} && {PROGRESS}"))
        assert page('document.querySelector("#curve polyline").getAttribute("points")')
        assert page('document.getElementById("surprise-before").textContent') == TEXT
        page.wait('document.getElementById("what").className === "good"')
        page.wait('!!document.querySelector("#documents summary")')
        colours = page("""["before", "after"].map((when) =>
          [...document.querySelectorAll(`#surprise-${when} span`)]
            .map((one) => parseFloat(one.title)).reduce((a, b) => a + b, 0))""")
        assert 0 < colours[1] < colours[0]
        assert "once" in page('document.getElementById("levels").textContent')

        right = []
        for question, answer in QUESTIONS.items():
            page(sent("ask", question=question))
            page.wait('document.querySelector(".answers:last-child")?.ariaBusy === "false"')
            without, with_it = page(ANSWERED)
            right.append((answer in without, answer in with_it))
        assert not any(before for before, _ in right) and sum(after for _, after in right) >= 2

        page("location.reload()")
        page.wait('document.querySelector("#documents summary")?.textContent.includes("one.txt")')
        for dark in (False, True):
            page.look(360, dark=dark)
            assert page("document.documentElement.scrollWidth") <= 360
        assert not page.complaints


HELD_BACK = """(() => {
  const plain = window.fetch;
  const freed = new Promise((done) => { window.release = () => { done(); return true; }; });
  let held = false;
  window.fetch = async (path, given) => {
    const found = await plain(path, given);
    if (held || path !== "/v1/memories" || given.method !== "GET") return found;
    held = true;
    const old = await found.text();
    await freed;
    setTimeout(() => { window.late = true; }, 50);
    return new Response(old);
  };
})()"""


def test_late_list_of_memories_leaves_the_choice(http, tmp_path):
    browser.browser()
    with driven.opened(str(http.base_url), tmp_path) as page:
        page.wait('document.getElementById("model")?.textContent === "tiny"')
        page.call("Page.addScriptToEvaluateOnNewDocument", source=HELD_BACK)
        page("location.reload()")
        page.wait("!!window.release")
        page.wait('document.getElementById("model")?.textContent === "tiny"')
        page(sent("new", name="chosen"))
        page.wait('!document.getElementById("learn").hidden')
        page("window.release()")
        page.wait("window.late === true")
        pressed = '#memories [aria-pressed="true"]'
        assert page(f"document.querySelector({pressed!r})?.textContent") == "chosen"
        assert page('document.getElementById("learn").hidden') is False


# shows parts visible only after errors, and folded ones
EVERYTHING = """for (const id of ["notice", "key", "cancel"])
    document.getElementById(id).hidden = false;
  document.getElementById("notice").textContent = "there is no such memory";
  document.querySelectorAll("details").forEach((one) => { one.open = true; })"""
SPOILT = """document.getElementById("model").style = "color: #777; background: #888";
  document.querySelector('label[for="text"]').remove();
  document.getElementById("merge").textContent = "";"""


def test_page_is_accessible(start, tmp_path):
    """Names, roles and contrast of everything on the page, by the rules of axe-core."""
    secret = Keys(database_in(tmp_path / "store")).add("one", space="one", scopes=frozenset(SCOPES))
    with (
        start(tmp_path / "store") as http,
        driven.opened(str(http.base_url), tmp_path) as page,
    ):
        page.wait('document.getElementById("key")?.hidden === false')
        http.headers["Authorization"] = f"Bearer {secret}"
        for memory in ("notes", "other"):
            http.post("/v1/memories", json={"id": memory})
        page(sent("key", secret=secret))
        page.wait('document.querySelectorAll("#memories button").length === 2')
        page('document.querySelectorAll("#memories button")[0].click()')
        page.wait('!document.getElementById("learn").hidden')
        page(sent("learn", title="seal.txt", text="A new seal costs nine crowns. It is green."))
        page.wait('document.getElementById("what").className === "good"')
        page.wait('!!document.querySelector("#documents summary")')
        page('document.getElementById("compare").click()')
        page.wait('document.getElementById("apart").textContent')
        page(sent("ask", question="What does a seal cost?"))
        page.wait('document.querySelector(".answers:last-child")?.ariaBusy === "false"')
        page(EVERYTHING)
        for width, dark in itertools.product((360, 1200), (False, True)):
            page.look(width, dark=dark)
            assert not page.faults(), (width, dark)
            assert page("document.documentElement.scrollWidth") <= width
        page(SPOILT)
        found = " ".join(page.faults())
        assert all(rule in found for rule in ("color-contrast (", "label (", "button-name ("))
