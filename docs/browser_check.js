// What a reader would see wrong on the page that is shown: called by browser_check.py, which passes a callback.
const [wide, finish] = arguments;
const found = [];
const root = document.documentElement;
const add = (what, element) => {
  const text = (element?.textContent ?? "").trim().replace(/\s+/g, " ").slice(0, 80);
  const name = element ? element.tagName.toLowerCase() + [...element.classList].map((one) => "." + one).join("") : "";
  found.push([what, name, text].filter(Boolean).join(" | "));
};
const ancestors = (element) => {
  const all = [];
  for (let one = element.parentElement; one; one = one.parentElement) all.push(one);
  return all;
};
const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const style = (element) => getComputedStyle(element);
// A box that scrolls by itself; the theme lets the whole text scroll in a narrow window, which is no such box.
const scrolls = (element) => ["auto", "scroll"].includes(style(element).overflowX) && !element.matches(".content, body");
const withText = () => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && !element.closest("script, style, noscript, title") && seen(element)) {
      nodes.push([walker.currentNode.data, element]);
    }
  }
  return nodes;
};

function formulas() {
  for (const element of document.querySelectorAll(".math")) {
    if (!element.querySelector("mjx-container")) add("a formula is not rendered", element);
  }
  for (const element of document.querySelectorAll("mjx-merror")) add("a formula has an error", element);
  const source = /\*\*\w+\*\*|\\[()[\]]|\\[a-zA-Z]{2,}|\$[^$\s][^$]*\$|:[a-z]+:`|``/;
  for (const [text, element] of withText()) {
    if (element.closest("pre, code, mjx-container, .sig, svg")) continue;
    const sought = element.closest(".context") ? /\\[()[\]]/ : source; // a summary of the search may quote code
    if (sought.test(text)) add("source text is shown", element);
  }
}

// Black ink, which is what a drawing has unless someone thought of dark mode.
function ink() {
  if (!matchMedia("(prefers-color-scheme: dark)").matches) return;
  for (const shape of document.querySelectorAll("svg :is(path, use, rect, circle, text)")) {
    const { fill, fillOpacity, stroke, strokeOpacity } = style(shape);
    const painted = [fillOpacity > 0 && fill, strokeOpacity > 0 && stroke];
    const black = painted.includes("rgb(0, 0, 0)") && !shape.closest("defs, clipPath, symbol, [class*=icon]");
    if (black && seen(shape)) add("a drawing has black ink in dark mode", shape.parentElement);
  }
}

function overflow() {
  const edge = root.clientWidth;
  const text = document.querySelector(".content");
  if (text && text.scrollWidth > text.clientWidth + 1) add(`the text is ${text.scrollWidth - text.clientWidth} px too wide`);
  if (root.scrollWidth > edge) add(`the page is ${root.scrollWidth - edge} px too wide`);
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect();
    if (box.width < 2 || !seen(element) || element.closest("svg *, mjx-container *")) continue;
    const above = ancestors(element);
    if ([element, ...above].some((one) => style(one).position === "fixed")) continue;
    if (box.right > edge + 1 && box.left < edge && !above.some(scrolls)) add("runs out of the page", element);
    const hidden = ["hidden", "clip"].includes(style(element).overflowX) && style(element).textOverflow !== "ellipsis";
    if (hidden && element.clientWidth > 8 && element.scrollWidth > element.clientWidth + 1) add("is cut off", element);
    if (wide && element.matches("pre") && element.scrollWidth > element.clientWidth + 1) add("code runs out of its box", element);
  }
}

function pictures() {
  for (const image of document.images) {
    if (!seen(image) && image.loading !== "lazy") continue;
    if (!image.complete || !image.naturalWidth) {
      found.push(`an image is missing: ${image.getAttribute("src")}`);
      continue;
    }
    if (!image.alt.trim() && !image.closest(".sphx-glr-thumbcontainer")) found.push(`an image has no text: ${image.getAttribute("src")}`);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 64;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, 64, 64);
    const alpha = context.getImageData(0, 0, 64, 64).data.filter((_, place) => place % 4 === 3);
    if (alpha.some((value) => value < 250) && colour(style(image).backgroundColor)[3] < 1) {
      found.push(`an image is transparent: ${image.getAttribute("src")}`);
    }
  }
}

// Red, green, blue and alpha of a colour of CSS, each from 0 to 1.
const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const known = new Map();
function colour(text) {
  if (!known.has(text)) {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = text;
    pixel.fillRect(0, 0, 1, 1);
    known.set(text, [...pixel.getImageData(0, 0, 1, 1).data].map((value) => value / 255));
  }
  return known.get(text);
}
const over = ([r, g, b, a], below) => [...[r, g, b].map((value, k) => a * value + (1 - a) * below[k]), 1];
const luminance = (rgb) =>
  rgb.slice(0, 3).reduce((sum, v, k) => {
    return sum + [0.2126, 0.7152, 0.0722][k] * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);

// What lies below a text of a drawing: the last shape before it that covers its middle. Hatches are thin lines, and the
// colors of a raster image are unknown.
function shape(text) {
  const box = text.getBoundingClientRect();
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  let last = null;
  for (const one of text.closest("svg").querySelectorAll("path, rect, image, use")) {
    if (!(one.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING)) break;
    const { left, right, top, bottom } = one.getBoundingClientRect();
    const covers = left <= x && x <= right && top <= y && y <= bottom && !one.closest("defs, clipPath");
    if (covers && (one.tagName === "image" || !/none|url/.test(style(one).fill))) last = one;
  }
  return last;
}

function contrast() {
  for (const [, element] of withText()) {
    const below = element.closest("svg") && shape(element);
    if (below?.tagName === "image") continue;
    const painted = [element, ...ancestors(element)].map((one) => colour(style(one).backgroundColor));
    if (below) painted.unshift(colour(style(below).fill));
    const opaque = painted.findIndex((one) => one[3] === 1);
    const layers = opaque < 0 ? [...painted, [1, 1, 1, 1]] : painted.slice(0, opaque + 1);
    const ground = layers.reduceRight((below, layer) => over(layer, below));
    const ink = over(colour(element.closest("svg") ? style(element).fill : style(element).color), ground);
    const [low, high] = [luminance(ink), luminance(ground)].sort((x, y) => x - y);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 3) add(`text has a contrast of ${ratio.toFixed(1)} only`, element);
  }
}

async function check() {
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  if (document.querySelector("script[src*=mathjax]")) await window.MathJax.startup.promise;
  await document.fonts.ready;
  for (const part of [formulas, overflow, pictures, ink, contrast]) part();
  for (const code of document.querySelectorAll("div.highlight pre")) {
    if (!code.parentElement.querySelector("button.copybtn")) add("code has no copy button", code);
  }
  const links = [...document.querySelectorAll("a[href]")].map((link) => link.href);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  return { found: [...new Set(found)], links: [...new Set(links)], ids };
}
check().then(finish, (error) => finish({ found: [`the check failed: ${error}`], links: [], ids: [] }));
