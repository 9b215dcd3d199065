/* As much of a browser as the page needs: node browser.js PAGE STEPS, where STEPS is JSON, a list of
   {"set": {element: value}}, {"click": element} and {"open": element, "file": path}. Prints what elements say after
   each, as JSON. */
const fs = require("fs"), vm = require("vm");
const [page, steps] = process.argv.slice(2), html = fs.readFileSync(page, "utf8"), elements = {};

class Element {
  constructor(text = "") { this.parts = [text]; this.value = ""; this.disabled = false; }
  get textContent() { return this.parts.map(part => part.textContent ?? part).join(""); }
  set textContent(text) { this.parts = [text]; }
  append(part) { this.parts.push(part); }
  appendChild(part) { this.parts.push(part); return part; }
  get valueAsNumber() { return Number(this.value); }
  scrollIntoView() {}
}

for (const [, id, text] of html.matchAll(/<script[^>]* id="(\w+)"[^>]*>([^]*?)<\/script>/g)) elements[id] = new Element(text);
for (const [, id, value] of html.matchAll(/<input[^>]* id="(\w+)"[^>]* value="([^"]*)"/g)) {
  elements[id] = Object.assign(new Element(), {value});
}
global.document = {getElementById: id => elements[id] ??= new Element(), createElement: () => new Element()};
global.requestAnimationFrame = next => setTimeout(next, 0);

const seen = () => Object.fromEntries(["text", "asked", "write", "error", "status", "adapters"].map(
  id => [id, document.getElementById(id).textContent]));

async function act(step) {
  for (const [id, value] of Object.entries(step.set ?? {})) document.getElementById(id).value = value;
  if (step.click) elements[step.click].onclick();
  while (elements.stop?.disabled === false) await new Promise(next => setTimeout(next, 5));  /* it writes */
  if (step.open) {
    const content = new Uint8Array(fs.readFileSync(step.file));
    const file = {name: step.file.split("/").pop(), size: content.length, lastModified: 0, arrayBuffer: async () => content.buffer};
    await elements[step.open].onchange({target: {files: [file], value: ""}});
  }
}

(async () => {
  vm.runInThisContext([...html.matchAll(/<script>([^]*?)<\/script>/g)].pop()[1]);
  while (!elements.state?.textContent && !elements.error?.textContent) await new Promise(next => setTimeout(next, 5));
  const found = [];
  for (const step of JSON.parse(steps)) { await act(step); found.push(seen()); }
  console.log(JSON.stringify(found));
})();
