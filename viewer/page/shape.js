// A shape: the surface of a level, and the blocks of levels as boxes around it, in three.js.

import * as THREE from "three";
import { OrbitControls } from "/vendor/three/OrbitControls.js";
import { $, about, allLevels, blockLegend, choice, element, keys, levelChoice, levelSet, remember, remembered, say,
  setText, title, toggle } from "/page/common.js";

const last = about.levels.length - 1;
// Surfaces are refined by themselves up to the first level of this many cells along an axis; finer ones take a while.
const QUICK_CELLS = 256;
const MOST_BOXES = 200000;
const quick = about.levels.findIndex(({ size }) => Math.max(...size) <= QUICK_CELLS);
const defaults = { level: quick < 0 ? last : quick, blocks: "", surface: true, up: "y", from: "" };
const state = remembered(defaults);
state.level = Math.min(Math.max(Math.trunc(state.level), 0), last);

const [lo, hi] = about.bounds.map((corner) => new THREE.Vector3(...corner));
const centre = lo.clone().add(hi).multiplyScalar(0.5);
const radius = hi.distanceTo(lo) / 2;

const renderer = new THREE.WebGLRenderer({ antialias: true });
renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
$("#view").append(renderer.domElement);
const scene = new THREE.Scene();
scene.background = new THREE.Color("#17181b");
const camera = new THREE.PerspectiveCamera(35, 1, radius / 100, radius * 20);
scene.add(camera, new THREE.HemisphereLight("#ffffff", "#4a4640", 1.6));
// The lamp goes with the eye, a little above and to the left.
const lamp = new THREE.DirectionalLight("#ffffff", 1.9);
lamp.position.set(-0.6, 0.8, 1);
camera.add(lamp);
const controls = new OrbitControls(camera, renderer.domElement);
controls.addEventListener("change", draw);
controls.addEventListener("end", () => {
  const eye = camera.position.clone().sub(controls.target).divideScalar(radius);
  state.from = eye.toArray().map((number) => number.toFixed(3)).join(",");
  remember(state, defaults);
});

const skin = new THREE.MeshStandardMaterial({ color: "#cfccc4", roughness: 0.62, side: THREE.DoubleSide });
const surface = new THREE.Mesh(new THREE.BufferGeometry(), skin);
scene.add(surface);
const boxes = new Map();

function draw() {
  renderer.render(scene, camera);
}

function resize() {
  const { clientWidth: width, clientHeight: height } = $("#view");
  camera.aspect = width / height;
  camera.updateProjectionMatrix();
  renderer.setSize(width, height);
  draw();
}
window.addEventListener("resize", resize);

function lookFrom(text) {
  const numbers = text.split(",").map(Number);
  const given = numbers.length === 3 && numbers.every(Number.isFinite) && numbers.some(Boolean);
  const eye = given ? numbers : state.up === "y" ? [0.7, 0.5, 2.9] : [0.7, -2.9, 0.5];
  camera.up.set(0, state.up === "y" ? 1 : 0, state.up === "y" ? 0 : 1);
  controls._quat?.setFromUnitVectors(camera.up, new THREE.Vector3(0, 1, 0));
  controls._quatInverse?.copy(controls._quat).invert();
  controls.target.copy(centre);
  camera.position.set(...eye).multiplyScalar(radius).add(centre);
  controls.update();
  draw();
}

const bytes = async (path) => (await fetch(path)).arrayBuffer();

async function loadSurface(level) {
  const data = await bytes(`/surface/${level}.bin`);
  const [vertices, faces] = new Uint32Array(data, 0, 2);
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(data, 8, 3 * vertices), 3));
  geometry.setIndex(new THREE.BufferAttribute(new Uint32Array(data, 8 + 12 * vertices, 3 * faces), 1));
  geometry.computeVertexNormals();
  return { geometry, faces };
}

// The twelve edges of a box, as pairs of corners; bit i of a corner chooses lo or hi along axis i.
const EDGES = [0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 1, 3, 4, 6, 5, 7, 0, 4, 1, 5, 2, 6, 3, 7];

async function loadBoxes(level) {
  const corners = new Float32Array(await bytes(`/boxes/${level}.bin`));
  const count = corners.length / 6;
  const points = new Float32Array(count * EDGES.length * 3);
  let at = 0;
  for (let box = 0; box < count; box++) {
    for (const corner of EDGES) {
      for (let axis = 0; axis < 3; axis++) points[at++] = corners[6 * box + 3 * ((corner >> axis) & 1) + axis];
    }
  }
  const geometry = new THREE.BufferGeometry().setAttribute("position", new THREE.BufferAttribute(points, 3));
  const colour = about.levels[level].colour;
  const lines = new THREE.LineSegments(
    geometry, new THREE.LineBasicMaterial({ color: colour, transparent: true, opacity: 0.55 }));
  scene.add(lines);
  return lines;
}

const told = element("span", { textContent: "…" });
let shownLevel = null;
let asked = 0;

// Shows the surface of the level asked for. The first time coarser ones come before it, as they are there sooner.
async function refine() {
  const mine = ++asked;
  say("loading");
  const first = shownLevel === null ? last : state.level;
  for (let level = Math.max(first, state.level); level >= state.level; level--) {
    if (shownLevel === level) continue;
    told.textContent = `extracting the surface of level ${level} …`;
    const { geometry, faces } = await loadSurface(level);
    if (mine !== asked) return;
    surface.geometry.dispose();
    surface.geometry = geometry;
    shownLevel = level;
    told.textContent = faces ? `level ${level} · ${faces.toLocaleString("en")} triangles` : `level ${level} is empty`;
    draw();
  }
  await showBoxes();
  if (mine === asked) say("ready");
}

async function showBoxes() {
  const wanted = levelSet(state.blocks);
  for (const level of wanted) {
    if (!boxes.has(level) && about.levels[level]?.active <= MOST_BOXES) {
      boxes.set(level, null);
      boxes.set(level, await loadBoxes(level));
    }
  }
  for (const [level, lines] of boxes) if (lines) lines.visible = levelSet(state.blocks).has(level);
  draw();
}

function set(changes) {
  Object.assign(state, changes);
  remember(state, defaults);
  update();
}

const setLevel = (level) => { if (level <= last) { set({ level }); refine(); } };
const switchBlocks = () => { set({ blocks: state.blocks ? "" : allLevels }); refine(); };
function switchLevelBlocks(level) {
  const chosen = levelSet(state.blocks);
  if (!chosen.delete(level)) chosen.add(level);
  set({ blocks: setText(chosen) });
  refine();
}
const switchSurface = () => { set({ surface: !state.surface }); draw(); };
const setUp = (up) => { set({ up, from: "" }); lookFrom(""); };

const levels = levelChoice(setLevel);
const up = choice("Up", [["y", "y", "y is up (U)"], ["z", "z", "z is up (U)"]], setUp);
const skinSwitch = toggle("Surface", "Show the surface (S)", switchSurface);
const blocks = toggle("Blocks", "Show the blocks that have a network (B)", switchBlocks);
const help = keys({
  0: ["the surface of a level", () => setLevel(0), `0 … ${last}`],
  ...Object.fromEntries(about.levels.slice(1, 10).map((_, j) => [j + 1, ["", () => setLevel(j + 1)]])),
  b: ["blocks", switchBlocks],
  s: ["surface", switchSurface],
  u: ["which axis is up", () => setUp(state.up === "y" ? "z" : "y")],
  h: ["back to the first view", () => { set({ from: "" }); lookFrom(""); }],
});
$("header").append(
  title(), element("a", { className: "button", href: "/slices", textContent: "Slices" }), levels.node, up.node,
  element("span", { className: "space" }), skinSwitch.node, blocks.node, help);
$("#status").append(told, element("span", {
  textContent: `${about.size.join(" × ")} cells · drag to orbit, wheel to zoom, right button to move`,
}));

function update() {
  levels.update(state.level);
  up.update(state.up);
  skinSwitch.update(state.surface);
  blocks.update(state.blocks !== "");
  surface.visible = state.surface;
  const many = about.levels.flatMap(({ active }, level) => (active > MOST_BOXES ? [level] : []));
  $("#legend").replaceChildren(...(state.blocks ? [
    blockLegend(levelSet(state.blocks), switchLevelBlocks),
    ...(many.length ? [element("p", { textContent: `Level ${many.join(", ")}: too many boxes to draw.` })] : []),
  ] : []));
}

update();
lookFrom(state.from);
resize();
refine().catch(() => { told.textContent = "the surface could not be loaded"; say("failed"); });
