// The picture or clip that is asked about: how it comes in, and what is drawn over it.

import { AskError } from "./request.js";

const COLOURS = ["#f0529c", "#009ee2", "#ffb000", "#00aa6e", "#965feb", "#eb5a28", "#78c828", "#00bebe"];
const READ_BY_SERVER = ["image/jpeg", "image/png", "image/webp", "image/gif"];
const MAX_SIDE = 3072; // of a picture that is made smaller, because its file is too large for the server

/** The colour of a point: one for each label, in order of appearance. */
export function colourOf(points, number) {
  const labels = [...new Set(points.map((point) => point.label))];
  return COLOURS[labels.indexOf(points[number].label) % COLOURS.length];
}

/** A file as the server can read it: `{file, url, isClip, isVideo}`. */
export async function readFile(file, able) {
  const kind = file.type || "";
  const isVideo = kind.startsWith("video/");
  const isClip = isVideo || (able.takes_videos && (await isAnimated(file)));
  if (!able.takes_pictures) throw new AskError("This model reads text alone", "It was built without a picture encoder.");
  if (isVideo && !able.takes_videos) {
    throw new AskError("This model reads pictures, not clips", "Choose a picture, or serve a VideoOlmo.");
  }
  let taken = file;
  if (!isClip) {
    const shown = await bitmap(file);
    if (!READ_BY_SERVER.includes(kind) || file.size > able.max_media_bytes) taken = await redrawn(file, shown);
    shown.close();
  }
  if (taken.size > able.max_media_bytes) {
    const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
    throw new AskError("The file is too large", `It has ${mib(taken.size)} MiB, the server takes ${mib(able.max_media_bytes)} MiB.`);
  }
  return { file: taken, url: URL.createObjectURL(taken), isClip, isVideo };
}

async function bitmap(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new AskError("This is not a picture", `"${file.name}" cannot be opened. JPEG, PNG, WebP and GIF work.`);
  }
}

/** A picture in a form that the server reads, no larger than it must be. */
async function redrawn(file, shown) {
  const scale = Math.min(1, MAX_SIDE / Math.max(shown.width, shown.height));
  const canvas = new OffscreenCanvas(Math.round(shown.width * scale), Math.round(shown.height * scale));
  canvas.getContext("2d").drawImage(shown, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  return new File([blob], `${file.name.replace(/\.\w+$/, "")}.jpg`, { type: "image/jpeg" });
}

/** Whether a GIF, WebP or PNG moves: by the marks that stand before the second frame. */
async function isAnimated(file) {
  if (!["image/gif", "image/webp", "image/png", "image/apng"].includes(file.type)) return false;
  const head = new TextDecoder("latin1").decode(await file.slice(0, 2 ** 20).arrayBuffer());
  if (file.type === "image/gif") return head.split("\x00\x21\xf9\x04").length > 2;
  return file.type === "image/webp" ? head.slice(0, 64).includes("ANIM") : head.slice(0, 4096).includes("acTL");
}

/** Show a picture or clip in `place`, which takes its shape. */
export function showMedia(place, picture) {
  const shown = document.createElement(picture.isVideo ? "video" : "img");
  shown.src = picture.url;
  if (picture.isVideo) Object.assign(shown, { controls: true, muted: true, loop: true, playsInline: true });
  else shown.alt = `The ${picture.isClip ? "clip" : "picture"} ${picture.file.name}`;
  const [name, widthOf, heightOf] = picture.isVideo
    ? ["loadedmetadata", "videoWidth", "videoHeight"] : ["load", "naturalWidth", "naturalHeight"];
  shown.addEventListener(name, () => {
    shown.style.setProperty("--width", shown[widthOf]);
    shown.style.setProperty("--ratio", shown[widthOf] / shown[heightOf]);
  });
  place.replaceChildren(shown);
}

/** Draw points; `link` is told of every mark with its point. */
export function showPoints(place, points, link) {
  place.replaceChildren(...points.map((point, number) => {
    const mark = document.createElement("button");
    mark.type = "button";
    mark.className = "mark";
    mark.style.setProperty("left", `${point.x}%`);
    mark.style.setProperty("top", `${point.y}%`);
    mark.style.setProperty("--colour", colourOf(points, number));
    mark.setAttribute("aria-label", `Point ${number + 1}: ${point.label}, at ${point.x} % and ${point.y} %`);
    const name = document.createElement("span");
    name.className = "mark-name";
    name.textContent = point.label ? `${point.label} ${number + 1}` : String(number + 1);
    if (point.x > 70) name.classList.add("to-the-left");
    const sign = document.createElement("span");
    sign.className = "mark-number";
    sign.textContent = String(number + 1);
    mark.append(sign, name);
    link(mark, [number]);
    return mark;
  }));
}

/** Dim what the model did not keep. Tokens of high resolution decide where there are any. */
export function showKept(canvas, tokens, size) {
  const scale = Math.min(1, 1600 / Math.max(size.width, size.height)) * (Math.max(size.width, size.height) < 800 ? 2 : 1);
  const [width, height] = [Math.round(size.width * scale), Math.round(size.height * scale)];
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  const dim = "rgb(12 12 18 / 0.74)";
  const box = ([left, top, right, bottom]) => {
    const [x, y] = [Math.round(left * width), Math.round(top * height)];
    return [x, y, Math.round(right * width) - x, Math.round(bottom * height) - y];
  };
  pen.fillStyle = dim;
  pen.fillRect(0, 0, width, height);
  const inOrder = [...tokens.filter((token) => !token[5]), ...tokens.filter((token) => token[5])];
  for (const token of inOrder) {
    pen.clearRect(...box(token));
    if (!token[4]) pen.fillRect(...box(token));
  }
  pen.strokeStyle = "rgb(255 176 0 / 0.85)";
  pen.lineWidth = Math.max(1, Math.round(Math.max(width, height) / 600));
  const hasFine = tokens.some((token) => token[5]);
  for (const token of tokens) if (token[4] && Boolean(token[5]) === hasFine) pen.strokeRect(...box(token));
}

/** Have a photo taken in a dialog, as a File; null where the person thinks better of it. */
export async function takePhoto(dialog, viewfinder, shutter, cancel) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    throw new AskError("There is no camera", "The browser has none, or is not allowed to use it.");
  }
  viewfinder.srcObject = stream;
  await viewfinder.play();
  dialog.showModal();
  const isTaken = await new Promise((done) => {
    shutter.onclick = () => done(true);
    cancel.onclick = dialog.onclose = () => done(false);
  });
  const canvas = new OffscreenCanvas(viewfinder.videoWidth, viewfinder.videoHeight);
  canvas.getContext("2d").drawImage(viewfinder, 0, 0);
  stream.getTracks().forEach((track) => track.stop());
  viewfinder.srcObject = null;
  dialog.close();
  if (!isTaken) return null;
  return new File([await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 })], "photo.jpg", { type: "image/jpeg" });
}
