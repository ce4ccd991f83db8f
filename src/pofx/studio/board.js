// A canvas over small images: point at a pixel, drag a point, paint a hole, or draw points. Mouse, touch and keyboard alike.
// State is the component's value: {src, rows, cols, cell, point, mask, points}; mode says what a person may change.
const canvas = element.querySelector("canvas");
const context = canvas.getContext("2d");
const mode = props.mode;
let state = Object.assign({ rows: 1, cols: 1 }, props.value);
let picture = null;
let cursor = [0.5, 0.5]; // of the keyboard, in shares of the width and height
let inked = true; // of the stroke in hand: whether it paints or wipes

const ink = (name) => getComputedStyle(element).getPropertyValue(name).trim();

function load() {
  if (!state.src) { picture = null; draw(); return; }
  if (picture && picture.src === state.src) { draw(); return; }
  const image = new Image();
  image.onload = () => { picture = image; draw(); };
  image.src = state.src;
}

function draw() {
  const width = canvas.width, height = canvas.height;
  context.imageSmoothingEnabled = false;
  context.fillStyle = ink("--background-fill-secondary") || "#888";
  context.fillRect(0, 0, width, height);
  if (picture) context.drawImage(picture, 0, 0, width, height);
  const across = width / state.cols, down = height / state.rows;
  if (state.mask) {
    context.fillStyle = "rgba(110, 150, 190, 0.85)";
    for (let i = 0; i < state.mask.length; i++)
      if (state.mask[i] === "1") context.fillRect((i % state.cols) * across, Math.floor(i / state.cols) * down, across + 0.5, down + 0.5);
  }
  if (state.cell) {
    context.lineWidth = 3;
    context.strokeStyle = ink("--color-accent") || "orange";
    context.strokeRect(state.cell[1] * across, state.cell[0] * down, across, down);
  }
  for (const [x, y] of state.points || []) dot(x, y, 4, ink("--color-accent") || "orange");
  if (state.point) { dot(state.point[0], state.point[1], 9, "white"); dot(state.point[0], state.point[1], 6, ink("--color-accent") || "orange"); }
  if (document.activeElement === canvas && mode !== "point") {
    context.lineWidth = 2;
    context.strokeStyle = ink("--body-text-color") || "black";
    const x = Math.floor(cursor[0] * state.cols) * across, y = Math.floor(cursor[1] * state.rows) * down;
    if (mode === "draw") context.strokeRect(cursor[0] * width - 6, cursor[1] * height - 6, 12, 12);
    else context.strokeRect(x, y, across, down);
  }
}

function dot(x, y, radius, color) {
  context.fillStyle = color;
  context.beginPath();
  context.arc(x * canvas.width, y * canvas.height, radius, 0, 2 * Math.PI);
  context.fill();
}

function tell(name) {
  props.value = Object.assign({}, state);
  draw();
  if (name === "input") trigger("input");
}

// What a person did at a place: x and y in [0, 1); start: of a stroke or a key.
function act(x, y, start) {
  x = Math.min(Math.max(x, 0), 0.999999); y = Math.min(Math.max(y, 0), 0.999999);
  cursor = [x, y];
  const row = Math.floor(y * state.rows), column = Math.floor(x * state.cols);
  if (mode === "cell") { state.cell = [row, column]; tell("input"); }
  if (mode === "point") { state.point = [x, y]; tell("input"); }
  if (mode === "draw" && (state.points || []).length < 2000) { state.points = [...(state.points || []), [x, y]]; tell("input"); }
  if (mode === "paint") {
    const radius = props.brush === undefined ? 0 : props.brush, mask = (state.mask || "0".repeat(state.rows * state.cols)).split("");
    if (start) inked = mask[row * state.cols + column] !== "1";
    for (let r = row - radius; r <= row + radius; r++)
      for (let c = column - radius; c <= column + radius; c++)
        if (r >= 0 && c >= 0 && r < state.rows && c < state.cols) mask[r * state.cols + c] = inked ? "1" : "0";
    state.mask = mask.join("");
    tell("input");
  }
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); act(...at(event), true); });
canvas.addEventListener("pointermove", (event) => { if (event.buttons) act(...at(event), false); });
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);
canvas.addEventListener("keydown", (event) => {
  const fine = mode === "point" || mode === "draw";
  const stepX = fine ? 0.02 : 1 / state.cols, stepY = fine ? 0.02 : 1 / state.rows;
  const way = { ArrowLeft: [-stepX, 0], ArrowRight: [stepX, 0], ArrowUp: [0, -stepY], ArrowDown: [0, stepY] }[event.key];
  if (way) {
    event.preventDefault();
    const from = mode === "point" && state.point ? state.point : cursor;
    cursor = [Math.min(Math.max(from[0] + way[0], 0), 0.999999), Math.min(Math.max(from[1] + way[1], 0), 0.999999)];
    if (mode === "point") act(...cursor, true); else draw();
  } else if (event.key === " " || event.key === "Enter") { event.preventDefault(); act(...cursor, true); }
});
watch("value", () => { state = Object.assign({ rows: 1, cols: 1 }, props.value); load(); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
load();
