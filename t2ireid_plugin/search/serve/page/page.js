"use strict";

const PER_PAGE = 24;
const TEXTS = {
  en: { other: "中文", sentence: "Description of a person", example: "a woman in a red jacket with a black bag",
    search: "Search", photo: "Search with a photo", drop: "Remove the photo", filters: "Filters and weights",
    camera: "Camera", all: "all cameras", after: "From", before: "Until", per: "One result per", row: "picture",
    track: "track", file: "file", minus: "Not like (a sentence)", weights: "Identity {identity} % · clothing {clothing} %",
    back: "← Back", next: "Next →", page: "Page {page}", similar: "Search for this person", close: "Close",
    candidates: "Results are candidates for a person to check. Scores are similarities, not probabilities.",
    keys: "Keys: / sentence · arrows move · Enter opens · n next page · p previous page · Esc closes",
    ready: "Describe a person to search {rows} rows.", busy: "Searching…", none: "0 of {total} rows match the filters.",
    found: "{first}–{last} of {searched} rows, most similar first", end: "No more results.", similarity: "similarity",
    time: "Time", score: "Similarity", path: "File", id: "Row", trackname: "Track", gone: "The server cannot be reached." },
  zh: { other: "English", sentence: "人物描述", example: "一名穿红色外套、背黑色包的女子",
    search: "搜索", photo: "用照片搜索", drop: "移除照片", filters: "筛选与权重",
    camera: "摄像头", all: "全部摄像头", after: "起始时间", before: "截止时间", per: "每项一个结果", row: "图片",
    track: "轨迹", file: "文件", minus: "排除（一句描述）", weights: "身份 {identity}% · 服装 {clothing}%",
    back: "← 上一页", next: "下一页 →", page: "第 {page} 页", similar: "搜索此人", close: "关闭",
    candidates: "结果仅为候选，须由人核实。分数是相似度，不是概率。",
    keys: "按键：/ 输入描述 · 方向键移动 · Enter 打开 · n 下一页 · p 上一页 · Esc 关闭",
    ready: "输入人物描述，在 {rows} 条记录中搜索。", busy: "正在搜索…", none: "共 {total} 条记录，没有符合筛选条件的。",
    found: "{searched} 条记录中的第 {first}–{last} 名，按相似度排序", end: "没有更多结果。", similarity: "相似度",
    time: "时间", score: "相似度", path: "文件", id: "编号", trackname: "轨迹", gone: "无法连接服务器。" },
};
const $ = (id) => document.getElementById(id);
const form = $("search"), field = form.elements;
let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let about = { rows: 0, cameras: [], weight: null }, photo = null, results = null, current = 0, latest = 0;
let status = ["ready"];

function say(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name].toLocaleString(language));
}

function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const [name, property] of [["say", "textContent"], ["hint", "placeholder"], ["label", "ariaLabel"], ["title", "title"]])
    for (const node of document.querySelectorAll(`[data-${name}]`)) node[property] = say(node.dataset[name]);
  $("language").textContent = say("other");
  showForm();
  showStatus(...status);
  if (results) showResults();
}

function showStatus(key, values, wrong = false) {
  status = [key, values, wrong];
  $("status").textContent = key in TEXTS.en ? say(key, { rows: about.rows, ...values }) : key;
  $("status").className = wrong ? "wrong" : "";
}

/** The form as the page's address has it: without what is empty or as the model chose it. */
function parameters() {
  const values = [...new FormData(form)].filter(([, value]) => value.trim());
  const isDefault = (value) => about.weight === null || Math.abs(value - about.weight) < 0.006;  // a step of the slider
  return new URLSearchParams(values.filter(([name, value]) => name !== "weight" || !isDefault(value)));
}

function readAddress() {
  const given = new URLSearchParams(location.search), camera = given.get("camera");
  if (camera && !about.cameras.includes(camera)) field.camera.append(new Option(camera, camera));  // the server says so
  for (const node of field) if (node.name) node.value = given.get(node.name) ?? (node.name === "weight" ? about.weight : "");
  showForm();
}

function showForm() {
  const identity = Math.round(100 * field.weight.value);
  $("weights").hidden = about.weight === null;
  $("weights").querySelector("output").textContent = say("weights", { identity, clothing: 100 - identity });
  const filters = [...parameters().keys()].filter((name) => !["q", "like", "offset"].includes(name));
  $("active").textContent = filters.length || "";
  $("photo").hidden = !photo && !field.like.value;
  const picture = photo ? photo.address : field.like.value && `image/${encodeURIComponent(field.like.value)}`;
  if (picture) $("photo").firstElementChild.src = picture;
}

function setPhoto(file) {
  if (photo) URL.revokeObjectURL(photo.address);
  photo = file ? { file, address: URL.createObjectURL(file) } : null;
  $("file").value = "";
}

async function search() {
  const number = ++latest, query = parameters();
  showForm();
  document.title = [field.q.value.trim(), "t2ireid"].filter(Boolean).join(" · ");
  if (!query.has("q") && !query.has("like") && !photo) return clear("ready");
  for (const name of ["after", "before"])
    if (query.has(name)) query.set(name, new Date(query.get(name)).toISOString());  // the browser's time zone
  query.set("k", PER_PAGE);
  showStatus("busy");
  $("hits").className = "busy";
  const upload = { method: "POST", body: photo?.file, headers: { "Content-Type": "application/octet-stream" } };
  let answer, body;
  try {
    answer = await fetch(`api/search?${query}`, photo ? upload : {});
    body = await answer.json();
  } catch { body = { detail: "gone" }; }
  if (number !== latest) return;
  $("hits").className = "";
  if (!answer?.ok) return clear(body.detail, true);
  results = body;
  showResults();
}

function clear(message, wrong) {
  results = null;
  $("hits").className = "";
  $("hits").replaceChildren();
  $("pages").hidden = true;
  showStatus(message, {}, wrong);
}

/** Searches for the hits from ``offset`` on, and makes an entry in the browser's history. */
function searchAnew(offset = 0) {
  field.offset.value = offset || "";
  history.pushState(null, "", `?${parameters()}`);
  scrollTo(0, 0);
  return search();
}

const timeOf = (hit) => hit.time && new Date(hit.time).toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "medium" });

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function showResults() {
  const first = Number(field.offset.value) + 1, { hits, searched, total, more } = results;
  $("hits").replaceChildren(...hits.map((hit, place) => {
    const picture = element("img"), score = element("b", hit.score.toFixed(3));
    Object.assign(picture, { src: hit.image, alt: `${first + place}`, loading: "lazy" });
    score.title = say("similarity");
    const lines = [hit.camera, timeOf(hit)].filter(Boolean);
    if (!lines.length) lines.push(hit.path.split("/").pop());
    const button = element("button", picture, element("span", score, `${first + place}`, ...lines.map((line) => element("small", line))));
    button.type = "button";
    button.onclick = () => open(place);
    return element("li", button);
  }));
  $("pages").hidden = !more && first === 1;
  $("back").disabled = first === 1;
  $("next").disabled = !more;
  $("page").textContent = say("page", { page: Math.ceil(first / PER_PAGE) });
  if (hits.length) showStatus("found", { first, last: first + hits.length - 1, searched });
  else showStatus(searched ? "end" : "none", { total });
}

// The row's number as text: those of Milvus are larger than JavaScript's numbers hold exactly.
const rowOf = (hit) => hit.image.slice("image/".length);

function open(place) {
  current = place;
  const hit = results.hits[place], rows = [];
  $("one").querySelector("img").src = hit.image;
  const facts = { score: hit.score.toFixed(4), camera: hit.camera, time: timeOf(hit), trackname: hit.track, path: hit.path, id: rowOf(hit) };
  for (const [name, value] of Object.entries(facts)) if (value ?? false) rows.push(element("dt", say(name)), element("dd", `${value}`));
  $("one").querySelector("dl").replaceChildren(...rows);
  if (!$("one").open) $("one").showModal();
}

/** Moves the focus, or in the dialog the hit, by a number of places. */
function move(step) {
  const buttons = [...$("hits").querySelectorAll("button")];
  const place = ($("one").open ? current : buttons.indexOf(document.activeElement)) + step;
  if (place < 0 || place >= buttons.length) return;
  buttons[place].focus();
  if ($("one").open) open(place);
}

function onKey(event) {
  const key = event.key, typing = event.target.matches("input, select"), inDialog = $("one").open;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing && !(key === "ArrowDown" && event.target === field.q && results)) return;
  const tops = [...$("hits").children].map((node) => node.offsetTop);
  const columns = inDialog ? 1 : tops.filter((top) => top === tops[0]).length || 1;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: typing ? 1 : columns, ArrowUp: -columns };
  if (key in steps && results) move(steps[key]);
  else if (inDialog) return;
  else if (key === "/") field.q.select();
  else if (key === "n" && !$("next").disabled) $("next").click();
  else if (key === "p" && !$("back").disabled) $("back").click();
  else return;
  event.preventDefault();
}

form.onsubmit = (event) => { event.preventDefault(); searchAnew(); };
form.oninput = showForm;
$("file").onchange = () => { setPhoto($("file").files[0]); field.like.value = ""; searchAnew(); };
$("drop").onclick = () => { setPhoto(null); field.like.value = ""; searchAnew(); };
$("back").onclick = () => searchAnew(Math.max(0, Number(field.offset.value) - PER_PAGE));
$("next").onclick = () => searchAnew(Number(field.offset.value) + PER_PAGE);
$("similar").onclick = () => { $("one").close(); setPhoto(null); field.like.value = rowOf(results.hits[current]); field.q.value = ""; searchAnew(); };
$("close").onclick = () => $("one").close();
$("language").onclick = () => { language = language === "en" ? "zh" : "en"; localStorage.setItem("language", language); translate(); };
document.onkeydown = onKey;
onpopstate = () => { setPhoto(null); readAddress(); search(); };

(async () => {
  try { about = { ...about, ...(await (await fetch("api/index")).json()) }; } catch { /* search says so */ }
  field.camera.append(...about.cameras.map((name) => new Option(name, name)));
  readAddress();
  $("more").open = Boolean($("active").textContent);
  translate();
  await search();
})();
