"use strict";
// Draws slices of one volume and its labels. All state is in `now`; `draw` shows it, and nothing else does.
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("slice"), status = document.getElementById("status");
const controls = Object.fromEntries(["plane", "position", "frame", "style", "opacity"].map(id => [id, document.getElementById(id)]));
const PLANES = {axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0]};  // across, up, through; axes x, y, z = R, A, S
const ENDS = [["R", "L"], ["A", "P"], ["S", "I"]];  // of each axis, as it is seen: first left or on top
const STYLES = ["filled", "outline", "hidden"];
const now = {plane: "axial", position: 0, frame: 0, style: "filled", opacity: 0.45};
const [NX, NY, NZ] = data.shape;
let image, labels;

async function unpacked(text) {
  const raw = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const axes = () => PLANES[now.plane];
const depth = () => data.shape[axes()[2]];

function at(column, row) {  // the voxel under a pixel of the slice: left is the patient's right, up is front or head
  const [across, up, through] = axes(), place = [0, 0, 0];
  place[across] = data.shape[across] - 1 - column;
  place[up] = data.shape[up] - 1 - row;
  place[through] = now.position;
  return ((now.frame * NX + place[0]) * NY + place[1]) * NZ + place[2];
}

function paint(width, height, pixel) {
  const layer = document.createElement("canvas");
  layer.width = width; layer.height = height;
  const context = layer.getContext("2d"), pixels = context.createImageData(width, height);
  for (let row = 0, i = 0; row < height; row++)
    for (let column = 0; column < width; column++, i += 4) pixels.data.set(pixel(column, row), i);
  context.putImageData(pixels, 0, 0);
  return layer;
}

const COLOURS = data.colours.map(hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)));

function draw() {
  const [across, up] = axes(), width = data.shape[across], height = data.shape[up];
  const scale = 640 / Math.max(width * data.spacing[across], height * data.spacing[up]);
  canvas.width = Math.round(width * data.spacing[across] * scale);
  canvas.height = Math.round(height * data.spacing[up] * scale);
  const context = canvas.getContext("2d"), counts = data.structures.map(() => 0);
  const label = (c, r) => c < 0 || r < 0 || c >= width || r >= height ? 0 : labels[at(c, r)];
  for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) { const v = label(c, r); if (v) counts[v - 1]++; }
  context.drawImage(paint(width, height, (c, r) => { const g = image[at(c, r)]; return [g, g, g, 255]; }), 0, 0, canvas.width, canvas.height);
  if (now.style !== "hidden") {
    const inside = (c, r, v) => label(c - 1, r) === v && label(c + 1, r) === v && label(c, r - 1) === v && label(c, r + 1) === v;
    context.imageSmoothingEnabled = false;
    context.drawImage(paint(width, height, (c, r) => {
      const v = label(c, r);
      if (!v || (now.style === "outline" && inside(c, r, v))) return [0, 0, 0, 0];
      return [...COLOURS[v - 1], now.style === "outline" ? 255 : Math.round(255 * now.opacity)];
    }), 0, 0, canvas.width, canvas.height);
  }
  context.font = "bold 16px sans-serif"; context.fillStyle = "#ffd75f"; context.textBaseline = "middle"; context.textAlign = "center";
  const [left, right] = ENDS[across], [top, bottom] = ENDS[up];
  context.fillText(left, 12, canvas.height / 2); context.fillText(right, canvas.width - 12, canvas.height / 2);
  context.fillText(top, canvas.width / 2, 12); context.fillText(bottom, canvas.width / 2, canvas.height - 12);
  tell(counts, data.spacing[across] * data.spacing[up]);
}

function tell(counts, pixel) {
  const found = data.structures.map((name, i) => counts[i] ? `${name} ${Math.round(counts[i] * pixel)} mm²` : "").filter(Boolean);
  const frame = data.frames > 1 ? `, frame ${now.frame + 1} of ${data.frames}` : "";
  status.textContent = `${now.plane} slice ${now.position + 1} of ${depth()}${frame}: ${found.join(", ") || "nothing drawn"}`;
  canvas.setAttribute("aria-label", status.textContent);
  controls.plane.value = now.plane; controls.style.value = now.style; controls.opacity.value = now.opacity;
  controls.position.max = depth() - 1; controls.position.value = now.position;
  if (controls.frame) controls.frame.value = now.frame;
}

function go(change) {
  const plane = change.plane && change.plane !== now.plane;
  Object.assign(now, change);
  if (plane) now.position = depth() >> 1;
  now.position = Math.min(Math.max(now.position, 0), depth() - 1);
  now.frame = (now.frame + data.frames) % data.frames;
  now.opacity = Math.min(Math.max(now.opacity, 0.05), 1);
  draw();
}

const KEYS = {
  ArrowUp: () => ({position: now.position + 1}), ArrowDown: () => ({position: now.position - 1}),
  ArrowRight: () => ({frame: now.frame + 1}), ArrowLeft: () => ({frame: now.frame - 1}),
  Home: () => ({position: 0}), End: () => ({position: depth() - 1}),
  a: () => ({plane: "axial"}), c: () => ({plane: "coronal"}), s: () => ({plane: "sagittal"}),
  o: () => ({style: STYLES[(STYLES.indexOf(now.style) + 1) % STYLES.length]}),
  "+": () => ({opacity: now.opacity + 0.1}), "-": () => ({opacity: now.opacity - 0.1}),
};

document.addEventListener("keydown", event => {
  const own = event.target.matches("select, input") && event.key.startsWith("Arrow");  // those have arrows of their own
  if (own || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  go(KEYS[event.key]());
});
canvas.addEventListener("wheel", event => { event.preventDefault(); go({position: now.position - Math.sign(event.deltaY)}); }, {passive: false});
controls.plane.addEventListener("change", () => go({plane: controls.plane.value}));
controls.style.addEventListener("change", () => go({style: controls.style.value}));
controls.position.addEventListener("input", () => go({position: Number(controls.position.value)}));
controls.opacity.addEventListener("input", () => go({opacity: Number(controls.opacity.value)}));
if (controls.frame) controls.frame.addEventListener("input", () => go({frame: Number(controls.frame.value)}));

Promise.all([unpacked(data.image), unpacked(data.labels)]).then(([grey, drawn]) => {
  [image, labels] = [grey, drawn];
  let most = -1;  // begin where most is drawn
  const sums = new Float64Array(NZ);
  for (let i = 0; i < NX * NY * NZ; i++) if (labels[i]) sums[i % NZ]++;
  sums.forEach((sum, z) => { if (sum > most) { most = sum; now.position = z; } });
  if (!most) now.position = NZ >> 1;
  draw();
  document.body.dataset.state = "ready";
});
