// What is sent to the server and read from it, and the same request as text for a terminal or a program.

const KEY = "molmo.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, in words for a person. */
export class AskError extends Error {
  constructor(title, message, status = 0) {
    super(message);
    this.title = title;
    this.status = status;
  }
}

const TITLES = {
  401: "The key is missing or wrong", 403: "The server does not answer under this name", 404: "Not found",
  408: "The picture took too long to send", 413: "Too large", 429: "The server is busy",
  500: "The server failed", 503: "The server is being stopped", 504: "The answer took too long",
};

/** The models of the server, each with what it can do. */
export async function models() {
  const answer = await sent("/v1/models", {});
  return (await answer.json()).data;
}

/** The body of a request; `data` is a data address of the picture or clip, or null. */
export function body(asked, data) {
  const content = [{ type: "text", text: asked.question }];
  if (data !== null) {
    const kind = asked.picture.isClip ? "video_url" : "image_url";
    content.push({ type: kind, [kind]: { url: data } });
  }
  const whole = { model: asked.model, messages: [{ role: "user", content }], stream: true, include_details: true };
  whole.stream_options = { include_usage: true };
  if (asked.ratio !== null) whole.selection_ratio = asked.ratio;
  return whole;
}

/** Ask, and tell `onText` of every piece. Returns `{details, usage, finish}`. */
export async function ask(asked, onText, signal) {
  const data = asked.picture ? await dataUrl(asked.picture.file) : null;
  const answer = await sent("/v1/chat/completions", {
    method: "POST", signal, body: JSON.stringify(body(asked, data)), headers: { "Content-Type": "application/json" },
  });
  const end = { details: null, usage: null, finish: null };
  for await (const event of events(answer.body)) {
    if (event.error) throw new AskError("The answer broke off", event.error.message);
    if (event.olmo) end.details = event.olmo;
    if (event.usage) end.usage = event.usage;
    const choice = event.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) end.finish = choice.finish_reason;
  }
  if (end.finish === null) throw new AskError("The answer broke off", "The connection ended before the answer did.");
  return end;
}

async function sent(path, options) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new AskError("The server cannot be reached", "Is it still running? Start it again with: molmo serve");
  }
  if (answer.ok) return answer;
  let message = `The server answered with status ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* something in front of the server answered in a form of its own */ }
  const seconds = answer.headers.get("Retry-After");
  if (seconds) message += ` (again in ${seconds} s)`;
  throw new AskError(TITLES[answer.status] ?? "The server refused this", message, answer.status);
}

/** The JSON of each server-sent event, up to the one that says it is done. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      yield JSON.parse(part.slice(6));
    }
  }
}

function dataUrl(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new AskError("The file cannot be read", "It may have been moved or changed."));
    reader.readAsDataURL(file);
  });
}

/** The request as a command for a POSIX shell. The picture is read from its file in the folder the command runs in. */
export function asCurl(asked) {
  const mark = "@@file@@";
  const whole = { ...body(asked, asked.picture ? mark : null), stream: false };
  delete whole.stream_options;
  let text = JSON.stringify(whole, null, 1).replaceAll(/[\\$`]/g, "\\$&");
  if (asked.picture) {
    text = text.replace(mark, `data:${asked.picture.file.type};base64,$(base64 < ${quoted(asked.picture.file.name)} | tr -d '\\n')`);
  }
  const lines = [`curl ${location.origin}/v1/chat/completions \\`, "  -H 'Content-Type: application/json' \\"];
  if (key.get()) lines.push('  -H "Authorization: Bearer $MOLMO_API_KEY" \\');
  return [...lines, "  -d @- <<END_OF_REQUEST", text, "END_OF_REQUEST", ""].join("\n");
}

/** The request as a program with the official client of the protocol. */
export function asPython(asked) {
  const parts = [`{"type": "text", "text": ${JSON.stringify(asked.question)}}`];
  const lines = ["import base64", "import os", "from pathlib import Path", "", "from openai import OpenAI", ""];
  const own = key.get() ? 'os.environ["MOLMO_API_KEY"]' : '"none"';
  if (!key.get()) lines.splice(1, 1);
  lines.push(`client = OpenAI(base_url="${location.origin}/v1", api_key=${own})`);
  if (asked.picture) {
    const kind = asked.picture.isClip ? "video_url" : "image_url";
    lines.push(`data = base64.b64encode(Path(${JSON.stringify(asked.picture.file.name)}).read_bytes()).decode()`);
    parts.push(`{"type": "${kind}", "${kind}": {"url": f"data:${asked.picture.file.type};base64,{data}"}}`);
  } else {
    lines.splice(lines.indexOf("import base64"), 1);
    lines.splice(lines.indexOf("from pathlib import Path"), 1);
  }
  const ratio = asked.ratio === null ? "" : `, "selection_ratio": ${asked.ratio}`;
  return [
    ...lines, "answer = client.chat.completions.create(", `    model=${JSON.stringify(asked.model)},`,
    '    messages=[{"role": "user", "content": [', ...parts.map((part) => `        ${part},`), "    ]}],",
    `    extra_body={"include_details": True${ratio}},`, ")", "print(answer.choices[0].message.content)",
    'print(answer.olmo["points"])', "",
  ].join("\n").replace(/^\n+/, "");
}

function quoted(name) {
  return `'${name.replaceAll("'", "'\\''")}'`;
}
