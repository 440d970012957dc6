// node tests/look_at_pages.mjs PAGE.html … : what Chromium and axe-core find wrong with pages, in
// two widths, light and dark, as JSON lines {page, width, mode, wrong: [...]}. NODE_MODULES is the
// folder that axe-core and playwright-core are installed in, CHROMIUM the browser, PICTURES (if
// set) a folder for screenshots.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_MODULES, "x.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const OPTIONS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const WIDTHS = [400, 1280];
const MODES = ["light", "dark"];

// Runs in the page: axe's violations, what is wider than the window, labels that overlap or are cut
// off, and short words of tables that are broken over two lines.
async function look() {
  const wrong = [];
  const results = await axe.run(document, { resultTypes: ["violations"] });
  for (const violation of results.violations) {
    for (const node of violation.nodes) wrong.push(`axe ${violation.id}: ${node.html.slice(0, 200)}`);
  }
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...document.querySelectorAll("body *")].filter(
      (e) => e.getBoundingClientRect().right > root.clientWidth + 0.5 && !e.closest(".wide, pre"));
    const names = wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 80));
    wrong.push(`wider than the window: ${root.scrollWidth} > ${root.clientWidth}: ${names}`);
  }
  for (const drawing of document.querySelectorAll("svg")) {
    const frame = drawing.getBoundingClientRect();
    const boxes = [...drawing.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
    for (const [words, box] of boxes) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
          box.top < frame.top - 1 || box.bottom > frame.bottom + 1) {
        wrong.push(`cut off in ${drawing.getAttribute("aria-label")}: ${words}`);
      }
    }
    for (let i = 0; i < boxes.length; i++) {
      for (let j = i + 1; j < boxes.length; j++) {
        const [a, b] = [boxes[i][1], boxes[j][1]];
        const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (width > 0.5 && height > 0.5) {
          wrong.push(`overlap in ${drawing.getAttribute("aria-label")}: ${boxes[i][0]} | ${boxes[j][0]}`);
        }
      }
    }
  }
  for (const cell of document.querySelectorAll("table:not(.matrix) :is(th, td, caption), .tiles span")) {
    for (const node of cell.childNodes) {
      for (const { 0: word, index } of (node.data ?? "").matchAll(/\S{2,12}(?!\S)/g)) {
        if (index > 0 && /\S/.test(node.data[index - 1])) continue;  // the end of a longer word
        const range = document.createRange();
        range.setStart(node, index);
        range.setEnd(node, index + word.length);
        if (range.getClientRects().length > 1) wrong.push(`broken word: ${word}`);
      }
    }
  }
  return wrong;
}

const profile = mkdtempSync(join(tmpdir(), "pages-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM, headless: true, args: OPTIONS,
});
try {
  for (const path of process.argv.slice(2)) {
    const page = await browser.newPage();
    for (const mode of MODES) {
      await page.emulateMedia({ colorScheme: mode });
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: 900 });
        await page.goto(pathToFileURL(resolve(path)).href);
        await page.evaluate(() => document.querySelectorAll("details").forEach((e) => { e.open = true; }));
        await page.evaluate(axe);
        const wrong = await page.evaluate(look);
        if (process.env.PICTURES) {
          const name = `${basename(dirname(path))}-${width}-${mode}.png`;
          await page.screenshot({ path: join(process.env.PICTURES, name), fullPage: true });
        }
        console.log(JSON.stringify({ page: path, width, mode, wrong }));
      }
    }
    await page.close();
  }
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
