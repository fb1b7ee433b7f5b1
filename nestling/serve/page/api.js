// Requests to the server: JSON, and server-sent events with the API key.

let secret = sessionStorage.getItem("key") || "";

export function useKey(value) {
  secret = value;
  sessionStorage.setItem("key", value);
}

export async function call(method, path, body) {
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const found = await fetch(path, {
    method, headers, body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (found.ok) return found;
  const told = await found.json().catch(() => ({}));
  const error = new Error(told.error?.message || `the server answers ${found.status}`);
  error.status = found.status;
  throw error;
}

export const json = async (...asked) => (await call(...asked)).json();

// yields every event of a stream
export async function* events(method, path, body) {
  const found = await call(method, path, body);
  const reader = found.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (!data.length) continue;
      const text = data.map((line) => line.slice(5).trim()).join("\n");
      if (text === "[DONE]") return;
      const event = JSON.parse(text);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
