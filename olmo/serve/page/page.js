// The page: what is clicked, typed, dropped and pasted, and what is shown of it.

import { showAnswer, showUnfinished } from "./answer.js";
import { readFile, showKept, showMedia, showPoints, takePhoto } from "./picture.js";
import { AskError, ask, asCurl, asPython, key, models } from "./request.js";

const at = (id) => document.getElementById(id);
const POINT_TO = "Point to the ";
const IDEAS = ["Describe this picture.", "What things are there?", POINT_TO];
const EXAMPLE = "example.png";
const EXAMPLE_IDEAS = ["Point to the trees.", "How many trees are there?", "What things are there?"];
const NO_MODEL = { takes_pictures: true, takes_videos: false, selection_ratio: null, max_media_bytes: 20 * 2 ** 20 };

const state = { models: [], picture: null, card: null, running: null };

function able() {
  return state.models.find((model) => model.id === at("model").value)?.olmo ?? NO_MODEL;
}

// -- server ------------------------------------------------------------------------------------------------------------

async function connect() {
  try {
    state.models = await models();
  } catch (error) {
    if (error.status === 401) askForKey(Boolean(key.get()));
    else notice(error);
    return;
  }
  const options = state.models.map((model) => new Option(model.id, model.id));
  at("model").replaceChildren(...options);
  at("model").disabled = false;
  notice(null);
  modelChanged();
}

function modelChanged() {
  const { selection_ratio: ratio, takes_videos: takesVideos, takes_pictures: takesPictures } = able();
  at("ratio-row").hidden = ratio === null;
  if (ratio !== null) at("ratio").value = String(Math.round(ratio * 100));
  ratioChanged();
  at("file").accept = takesVideos ? "image/*,video/*" : "image/*";
  document.querySelector(".lead").textContent = takesVideos ? "Drop a picture or a clip here" : "Drop a picture here";
  at("choose").disabled = at("photo").disabled = at("example").disabled = !takesPictures;
}

function ratioChanged() {
  at("ratio-value").textContent = `${at("ratio").value} %`;
}

function askForKey(isWrong) {
  at("key-button").hidden = false;
  at("key-wrong").hidden = !isWrong;
  at("key").value = "";
  if (!at("key-dialog").open) at("key-dialog").showModal();
  at("key").focus();
}

// -- picture -----------------------------------------------------------------------------------------------------------

async function take(file) {
  if (!file) return;
  try {
    show(await readFile(file, able()), null);
    notice(null);
    at("question").focus();
  } catch (error) {
    notice(error);
  }
}

/** Put a picture on the stage, with what a card has to draw on it. */
function show(picture, card) {
  if (picture && picture !== state.picture) {
    showMedia(at("media"), picture);
    at("file-name").textContent = picture.file.name;
    showIdeas(picture.file.name === EXAMPLE ? EXAMPLE_IDEAS : IDEAS);
  }
  state.picture = picture;
  state.card = card;
  at("empty").hidden = picture !== null;
  at("frame").hidden = at("tools").hidden = picture === null;
  for (const other of at("answers").children) other.classList.toggle("is-shown", other === card?.place);
  const details = card?.details;
  showPoints(at("marks"), details && picture && !picture.isClip ? details.points : [], link);
  const tokens = picture ? details?.selection?.pictures?.[0]?.tokens : undefined;
  at("kept-switch").hidden = tokens === undefined;
  at("kept").hidden = tokens === undefined || !at("show-kept").checked;
  if (tokens) showKept(at("kept"), tokens, details.image_sizes[0]);
}

async function example() {
  const answer = await fetch(`/page/${EXAMPLE}`);
  await take(new File([await answer.blob()], EXAMPLE, { type: "image/png" }));
}

async function photo() {
  const isHandheld = matchMedia("(pointer: coarse)").matches;
  if (isHandheld || !navigator.mediaDevices?.getUserMedia) {
    at("capture").click(); // the phone's own camera is better than ours
    return;
  }
  try {
    await take(await takePhoto(at("camera"), at("viewfinder"), at("shutter"), at("camera-cancel")));
  } catch (error) {
    notice(error);
  }
}

function notice(error) {
  at("notice").hidden = error === null;
  at("notice").textContent = error === null ? "" : `${error.title ?? "Something went wrong"}. ${sentence(error.message)}`;
}

/** A message of the server, which begins and ends as its log does, as a sentence. */
function sentence(message) {
  return message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?)]$/.test(message) ? "" : ".");
}

// -- text and points that belong together ------------------------------------------------------------------------------

/** Make a thing of the text or the picture light up all that shows the same points. */
function link(thing, numbers) {
  thing.dataset.points = numbers.join(" ");
  const light = (isOn) => () => lightUp(thing, isOn ? numbers : []);
  for (const name of ["mouseenter", "focus"]) thing.addEventListener(name, light(true));
  for (const name of ["mouseleave", "blur"]) thing.addEventListener(name, light(false));
}

function lightUp(thing, numbers) {
  const card = thing.closest("li");
  if (card && numbers.length && state.card?.place !== card) show(card.answer.picture, card.answer);
  const isLit = (other) => other.dataset.points.split(" ").some((number) => numbers.includes(Number(number)));
  const place = state.card?.place;
  for (const other of [...at("marks").children, ...(place?.querySelectorAll("[data-points]") ?? [])]) {
    other.classList.toggle("is-lit", isLit(other));
  }
  at("marks").classList.toggle("has-lit", numbers.length > 0);
}

// -- questions and answers ---------------------------------------------------------------------------------------------

async function send(question) {
  if (state.running || !question) return;
  const asked = {
    question, model: at("model").value, picture: state.picture,
    ratio: at("ratio-row").hidden ? null : Number(at("ratio").value) / 100,
  };
  const card = newCard(asked);
  show(state.picture, card);
  const running = new AbortController();
  setRunning(running);
  const start = performance.now();
  try {
    const end = await ask(asked, (piece) => {
      card.text += piece;
      showUnfinished(card.said, card.text);
    }, running.signal);
    card.details = end.details;
    finish(card, asked, end, (performance.now() - start) / 1000);
  } catch (error) {
    broken(card, asked, error);
  } finally {
    setRunning(null);
  }
}

function newCard(asked) {
  const place = document.createElement("li");
  place.className = "card";
  const [question, shows, said, foot] = ["h2", "button", "div", "div"].map((tag) => document.createElement(tag));
  shows.type = "button";
  shows.className = "asked";
  shows.textContent = asked.question;
  shows.title = "Show this answer on the picture";
  question.append(shows);
  said.className = "said";
  foot.className = "foot";
  place.append(question, said, foot);
  const card = { place, said, foot, text: "", details: null, picture: asked.picture };
  place.answer = card;
  showUnfinished(said, "");
  place.addEventListener("click", () => state.card !== card && show(card.picture, card));
  at("answers").prepend(place);
  at("answers").scrollTop = 0;
  at("ideas").hidden = true;
  return card;
}

function finish(card, asked, end, seconds) {
  const points = end.details?.points ?? [];
  showAnswer(card.said, card.text || "(no answer)", points, link);
  if (state.card === card) show(state.picture, card);
  const facts = [`${end.usage?.completion_tokens ?? "?"} tokens in ${seconds.toFixed(1)} s`];
  const kept = end.details?.selection;
  if (kept) facts.unshift(`${kept.kept} of ${kept.total} picture tokens kept`);
  if (end.finish === "length") facts.unshift("cut at the limit of tokens");
  if (points.length) facts.unshift(points.length === 1 ? "1 point" : `${points.length} points`);
  foot(card, asked, facts.join(", "));
}

function broken(card, asked, error) {
  const isStopped = error.name === "AbortError";
  if (error.status === 401) {
    card.place.remove();
    at("question").value = asked.question;
    show(card.picture, null);
    askForKey(Boolean(key.get()));
    return;
  }
  if (card.text) showUnfinished(card.said, card.text, true);
  else card.said.replaceChildren();
  if (!isStopped) {
    const place = document.createElement("p");
    const title = document.createElement("strong");
    place.className = "wrong";
    place.setAttribute("role", "alert");
    title.textContent = error instanceof AskError ? error.title : "Something went wrong";
    place.append(title, sentence(error.message));
    card.said.append(place);
  }
  foot(card, asked, isStopped ? "Stopped" : "");
}

function foot(card, asked, facts) {
  const told = document.createElement("span");
  told.className = "facts";
  told.textContent = facts;
  const buttons = document.createElement("span");
  buttons.className = "copies";
  buttons.append(copies("curl", () => asCurl(asked)), copies("Python", () => asPython(asked)));
  card.foot.replaceChildren(told, buttons);
}

function copies(name, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = `Copy ${name}`;
  button.setAttribute("aria-label", `Copy ${name}: the request, to run it elsewhere`);
  button.addEventListener("click", async () => {
    const isDone = await copied(text());
    button.textContent = isDone ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = `Copy ${name}`), 1500);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // only pages of this machine, or behind TLS, have a clipboard
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}

function setRunning(running) {
  state.running = running;
  at("send").hidden = running !== null;
  at("stop").hidden = running === null;
}

// -- events ------------------------------------------------------------------------------------------------------------

function submit(event) {
  event?.preventDefault();
  const question = at("question").value.trim();
  if (!question || state.running) return;
  at("question").value = "";
  send(question);
}

function listenToPicture() {
  for (const id of ["choose", "other"]) at(id).addEventListener("click", () => at("file").click());
  for (const id of ["photo", "other-photo"]) at(id).addEventListener("click", photo);
  at("example").addEventListener("click", example);
  for (const id of ["file", "capture"]) {
    at(id).addEventListener("change", () => {
      take(at(id).files[0]);
      at(id).value = "";
    });
  }
  at("show-kept").addEventListener("change", () => (at("kept").hidden = !at("show-kept").checked));
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) event.preventDefault();
    take(file);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    at("stage").classList.add("is-over");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) at("stage").classList.remove("is-over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("stage").classList.remove("is-over");
    take(event.dataTransfer.files[0]);
  });
}

function listenToQuestions() {
  at("ask").addEventListener("submit", submit);
  at("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  at("stop").addEventListener("click", () => state.running?.abort());
  document.addEventListener("keydown", (event) => event.key === "Escape" && state.running?.abort());
  at("model").addEventListener("change", modelChanged);
  at("ratio").addEventListener("input", ratioChanged);
}

/** Offer questions; one that is only begun is put where it can be ended. */
function showIdeas(ideas) {
  at("ideas").hidden = false;
  at("ideas").replaceChildren(...ideas.map((idea) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = idea === POINT_TO ? `${POINT_TO}\u2026` : idea;
    button.addEventListener("click", () => {
      if (idea !== POINT_TO) return send(idea);
      at("question").value = idea;
      return at("question").focus();
    });
    return button;
  }));
}

function listenToKey() {
  at("key-button").addEventListener("click", () => askForKey(false));
  at("key-cancel").addEventListener("click", () => at("key-dialog").close());
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(at("key").value.trim());
    at("key-dialog").close();
    connect();
  });
}

listenToPicture();
listenToQuestions();
listenToKey();
if (/Mac|iPhone|iPad/.test(navigator.userAgent)) at("paste-key").textContent = "\u2318";
at("key-button").hidden = !key.get();
connect();
