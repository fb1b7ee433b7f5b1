// The page: memories, a document that is being learned, and questions. User text is always inserted
// as text, never as HTML.

import { call, events, json, useKey } from "./api.js";

const at = (id) => document.getElementById(id);
const place = (memory, rest = "") => `/v1/memories/${encodeURIComponent(memory)}${rest}`;
let model = "";
let chosen = sessionStorage.getItem("memory") || "";
const picked = {}; // chosen values of the selects
let lists = 0; // how often the memories were listed
let watched = ""; // the job whose events are shown

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function complain(error) {
  at("notice").hidden = !error;
  at("notice").textContent = error ? error.message : "";
  if (error?.status === 401) at("key").hidden = false;
}

// runs an action and shows its error
const tried = (work) => async (event) => {
  event?.preventDefault();
  complain(null);
  try {
    await work(event);
  } catch (error) {
    complain(error);
  }
};

async function list() {
  const mine = ++lists;
  const { data } = await json("GET", "/v1/memories");
  if (mine !== lists) return; // a later list is on its way, and this one is out of date
  if (!data.some((one) => one.id === chosen)) chosen = "";
  at("memories").replaceChildren(...data.map((one) => {
    const item = element("li");
    const button = element("button", one.id, "plain");
    button.type = "button";
    button.setAttribute("aria-pressed", String(one.id === chosen));
    button.onclick = tried(() => choose(one.id));
    item.append(button);
    return item;
  }));
  const others = data.filter((one) => one.id !== chosen).map((one) => one.id);
  options("other", others.map((id) => [id, id]));
  options("beside", [
    ...(chosen ? [["-", "the model without a memory"]] : []),
    ...others.map((id) => [`+${id}`, id]), ["", "nothing else"],
  ]);
  at("together").hidden = !chosen || !others.length;
  at("apart").replaceChildren();
  for (const id of ["tools", "learn"]) at(id).hidden = !chosen;
  at("choose").hidden = Boolean(chosen);
  await show();
}

// keep the chosen option while it exists; otherwise the first
function options(id, pairs) {
  const before = picked[id];
  at(id).replaceChildren(...pairs.map(([value, text]) => {
    const made = element("option", text);
    made.value = value;
    return made;
  }));
  if (pairs.some(([value]) => value === before)) at(id).value = before;
}

async function choose(memory) {
  chosen = memory;
  sessionStorage.setItem("memory", memory);
  at("job").hidden = true;
  await list();
}

async function show() {
  at("documents-title").hidden = true;
  at("levels-title").hidden = true;
  for (const id of ["documents", "levels"]) at(id).replaceChildren();
  if (!chosen) return;
  const memory = chosen;
  const [about, jobs] = await Promise.all([
    json("GET", place(memory)), json("GET", place(memory, "/jobs")),
  ]);
  if (memory !== chosen) return;
  at("documents-title").hidden = !about.documents.length;
  at("documents").append(...about.documents.map(learned));
  at("levels-title").hidden = false;
  nest(about.boxes);
  const open = jobs.data.find((job) => ["running", "waiting", "cancelling"].includes(job.state));
  if (open && open.id !== watched) tried(() => watch(memory, open))();
}

// nested boxes, slowest outside
function nest(boxes) {
  let outer = at("levels");
  boxes.forEach((one, number) => {
    const box = element("div", undefined, "level");
    box.style.background = pace(number / Math.max(1, boxes.length - 1));
    const line = element("p");
    line.append(element("b", one.name), ` ${one.clock}; written: `, element("b", one.written));
    box.append(line);
    outer.append(box);
    outer = box;
  });
}

// from the slowest level (0) to the fastest (1)
const SLOW = [197, 218, 245], FAST = [255, 224, 178];
const pace = (at) => `rgb(${SLOW.map((one, n) => Math.round(one + at * (FAST[n] - one))).join(", ")})`;

// the stronger the colour, the less the model expected it
function colour(id, pieces) {
  at(id).replaceChildren(...pieces.map(([text, nats]) => {
    if (nats === null) return document.createTextNode(text);
    const made = element("span", text);
    made.title = `${nats.toFixed(1)} nats`;
    made.style.background = shade(nats);
    return made;
  }));
}

const shade = (nats) => `rgba(213, 94, 0, ${(0.7 * Math.min(Math.max(nats, 0) / 8, 1)).toFixed(2)})`;
for (const nats of [0, 4, 8]) {
  const mark = element("span", `${nats} nats`);
  mark.style.background = shade(nats);
  document.querySelector("#surprise .scale").append(mark);
}

function learned(one) {
  const made = element("details");
  const figures = one.figures;
  const right = figures
    ? `: ${figures.right_before} of ${figures.asked} right before, ${figures.right_after} after`
    : "";
  made.append(element("summary", `${one.name || "text"} (${one.tokens} tokens)${right}`));
  made.append(questions(one.questions));
  return made;
}

function questions(all) {
  const made = element("ul");
  made.append(...all.map((one) => element("li", `${one.question} \u2192 ${one.answer}`)));
  return made;
}

async function watch(memory, job) {
  watched = job.id;
  const losses = [];
  at("job").hidden = false;
  for (const id of ["made", "surprise", "surprise-title"]) at(id).hidden = true;
  at("surprise-after").replaceChildren();
  at("cancel").hidden = false;
  at("curve").firstElementChild.setAttribute("points", "");
  at("cancel").onclick = tried(() => call("DELETE", place(memory, `/jobs/${job.id}`)));
  let last = job;
  for await (const event of events("GET", place(memory, `/jobs/${job.id}/events`))) {
    last = event;
    if (memory === chosen) progress(job.name, event, losses);
  }
  watched = "";
  if (memory !== chosen) return;
  at("cancel").hidden = true;
  if (last.state === "failed") throw new Error(`${job.name}: ${last.message}`);
  await list();
}

function progress(name, event, losses) {
  if (event.surprise) {
    at("surprise").hidden = false;
    colour("surprise-before", event.surprise);
  }
  if (event.surprise_after) {
    at("surprise-title").hidden = false;
    colour("surprise-after", event.surprise_after);
  }
  if (event.state === "running" && event.done === undefined) return;
  const end = { done: "learned", failed: "failed", cancelled: "cancelled" }[event.state];
  const told = end || event.what || event.state;
  const loss = event.loss === undefined ? "" : `, loss ${event.loss.toFixed(3)}`;
  const steps = event.steps && !end ? `, step ${event.done} of ${event.steps}` : "";
  at("what").textContent = `${name}: ${told}${steps}${loss}${event.message ? `: ${event.message}` : ""}`;
  at("what").className = event.state === "done" ? "good" : "";
  at("progress").value = end === "learned" ? 1 : event.steps ? event.done / event.steps : 0;
  if (event.loss !== undefined) {
    losses.push(event.loss);
    curve(losses);
  }
  if (event.questions) {
    at("made").hidden = false;
    at("made").firstElementChild.textContent = `${event.questions.length} questions generated`;
    at("made").lastElementChild.replaceWith(questions(event.questions));
  }
}

function curve(losses) {
  const high = Math.max(...losses, 1e-9);
  const step = 300 / Math.max(1, losses.length - 1);
  const points = losses.map((loss, n) => `${(n * step).toFixed(1)},${(58 - (56 * loss) / high).toFixed(1)}`);
  at("curve").firstElementChild.setAttribute("points", points.join(" "));
}

// questions

const sourced = (name) => (name === null
  ? "nothing studied fits the question: answered as before study" : `from ${name}`);

async function ask() {
  const question = at("question").value.trim();
  if (!question) return;
  const memory = chosen;
  at("question").value = "";
  const answers = element("div", undefined, "answers");
  answers.setAttribute("aria-busy", "true");
  at("chat").append(element("p", question, "question"), answers);
  const beside = at("beside").value;
  const wanted = beside ? [beside.slice(1), memory] : [memory];
  await Promise.all(wanted.map(async (one) => {
    const card = element("div");
    const text = element("p", "");
    const whose = one ? `with ${one}` : wanted.length > 1 ? "without the memory" : model;
    const head = element("h4", whose);
    card.append(head, text);
    answers.append(card);
    const body = {
      model, messages: [{ role: "user", content: question }], stream: true, max_tokens: 120,
      ...(one ? { memory: one } : {}),
    };
    let source;
    for await (const event of events("POST", "/v1/chat/completions", body)) {
      text.textContent += event.choices[0]?.delta?.content || "";
      if (event.source !== undefined) source = event.source;
    }
    if (source !== undefined) head.textContent += `: ${sourced(source)}`;
    if (!text.textContent.trim()) text.textContent = "(nothing)";
  })).finally(() => answers.setAttribute("aria-busy", "false"));
}

// forms and buttons

at("new").onsubmit = tried(async () => {
  const { id } = await json("POST", "/v1/memories", { id: at("name").value });
  at("name").value = "";
  await choose(id);
});
at("fork").onclick = tried(async () => choose((await json("POST", place(chosen, "/fork"), {})).id));
at("undo").onclick = tried(async () => {
  await call("POST", place(chosen, "/undo"));
  await list();
});
for (const id of ["other", "beside"]) at(id).onchange = () => { picked[id] = at(id).value; };
at("merge").onclick = tried(async () => {
  await choose((await json("POST", place(chosen, "/merge"), { others: [at("other").value] })).id);
});
at("compare").onclick = tried(async () => {
  const other = at("other").value;
  const found = await json("GET", place(chosen, `/compare/${encodeURIComponent(other)}`));
  const lines = Object.entries(found.documents).map(
    ([id, names]) => `Only ${id} has learned: ${names.join(", ") || "nothing"}.`);
  for (const { level, first, second, between } of found.levels) {
    const [a, b, c] = [first, second, between].map((one) => one.toPrecision(3));
    lines.push(`Level ${level} has moved by ${a} and ${b}; they are ${c} apart.`);
  }
  at("apart").replaceChildren(...lines.map((line) => element("p", line)));
  at("beside").value = picked.beside = `+${other}`;
});
at("delete").onclick = tried(async () => {
  if (!confirm(`Delete ${chosen} for good?`)) return;
  await call("DELETE", place(chosen));
  await choose("");
});
at("download").onclick = tried(async () => {
  const link = element("a");
  link.href = URL.createObjectURL(await (await call("GET", place(chosen, "/file"))).blob());
  link.download = `${chosen}.memory`;
  link.click();
  URL.revokeObjectURL(link.href);
});
at("learn").onsubmit = tried(async () => {
  const memory = chosen;
  const body = { name: at("title").value || "text", text: at("text").value };
  const job = await json("POST", place(memory, "/jobs"), body);
  at("title").value = at("text").value = at("file").value = "";
  if (!watched) await watch(memory, job);
});
at("ask").onsubmit = tried(ask);
at("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
};

async function take(file) {
  if (!file) return;
  const text = new TextDecoder("utf-8", { fatal: true });
  try {
    at("text").value = text.decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is not UTF-8 text; save it as text first`);
  }
  at("title").value = file.name;
}
at("file").onchange = tried(() => take(at("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("text").addEventListener(kind, (event) => {
    event.preventDefault();
    at("text").classList.toggle("over", kind === "dragover");
    if (kind === "drop") tried(() => take(event.dataTransfer.files[0]))();
  });
}
at("key").onsubmit = tried(async () => {
  useKey(at("secret").value.trim());
  at("secret").value = "";
  at("key").hidden = true;
  await list();
});

tried(async () => {
  model = (await json("GET", "/health")).model;
  at("model").textContent = model;
  await list();
})();
