// Parallel coordinates in SVG. Point at a line for its values; drag along an axis to keep the lines that pass there;
// drag an axis by its name (or focus the name and press an arrow key) to move it. A double click on an axis frees it.
function parallel(place) {
  const { axes, lines } = JSON.parse(place.nextElementSibling.textContent);
  const order = axes.map((_, index) => index), brushes = new Map();
  const height = 420, top = 40, bottom = 66, full = height - top - bottom;
  const NS = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent, text) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const told = document.createElement("p");
  told.className = "caption told";
  told.setAttribute("aria-live", "polite");
  const label = (line) => `trial ${line.trial}: ` + order.map((axis) => `${axes[axis].name} ${line.text[axis]}`).join(", ");
  const yOf = (at) => (at === null ? top + full + 34 : top + (1 - at) * full);
  const kept = (line) => [...brushes].every(([axis, [low, high]]) => {
    const at = line.at[axis];
    return at !== null && at >= low && at <= high;
  });
  const say = () => {
    const some = lines.filter(kept);
    told.textContent = brushes.size ? `${some.length} of ${lines.length} lines kept` : "Point at a line, or drag along an axis.";
  };

  function draw() {
    const least = document.documentElement.classList.contains("printing") ? 0 : 110 * axes.length;
    const width = Math.max(place.clientWidth, least), left = 46, right = 60;
    const xOf = (slot) => left + (slot * (width - left - right)) / Math.max(axes.length - 1, 1);
    place.replaceChildren();
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": place.dataset.label }, place);
    const drawn = make("g", {}, svg);
    for (const line of lines) {
      const points = order.map((axis, slot) => `${xOf(slot).toFixed(1)},${yOf(line.at[axis]).toFixed(1)}`).join(" ");
      const best = line.shade === 0;
      const group = make("g", { class: "line", "data-trial": line.trial }, drawn);
      make("polyline", { points, fill: "none", stroke: colour(`mix(${line.shade})`), "stroke-width": best ? 3 : 1.5, opacity: kept(line) ? 0.95 - 0.35 * line.shade : 0.06 }, group);
      const target = make("polyline", { points, fill: "none", stroke: "transparent", "stroke-width": 9, "pointer-events": kept(line) ? "stroke" : "none" }, group);
      target.addEventListener("pointerenter", () => { group.classList.add("hovered"); drawn.append(group); told.textContent = label(line); });
      target.addEventListener("pointerleave", () => { group.classList.remove("hovered"); say(); });
    }
    order.forEach((axis, slot) => {
      const x = xOf(slot), about = axes[axis];
      const group = make("g", { class: "axis", "data-axis": about.name }, svg);
      make("line", { x1: x, x2: x, y1: top, y2: top + full }, group);
      for (const [at, text] of about.ticks) {
        make("line", { x1: x - 3, x2: x + 3, y1: yOf(at), y2: yOf(at) }, group);
        make("text", { x: x + 6, y: yOf(at) + 4 }, group, text.length > 13 ? text.slice(0, 12) + "…" : text);
      }
      if (about.absent) {
        make("circle", { cx: x, cy: yOf(null), r: 3, class: "absent" }, group);
        make("text", { x: x + 6, y: yOf(null) + 4, class: "absent" }, group, "does not exist");
      }
      const name = make("text", { x, y: 18, "text-anchor": slot ? "middle" : "start", class: "name", tabindex: 0, role: "button", "aria-label": `${about.full}: move with the arrow keys` }, group, about.name);
      make("title", {}, name, about.full);
      name.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step) { event.preventDefault(); move(slot, slot + step); place.querySelector(`[data-axis="${CSS.escape(about.name)}"] .name`).focus(); }
      });
      dragged(name, (event, start) => {
        const at = event.clientX - svg.getBoundingClientRect().left;
        if (event.type === "pointerup" && start) move(slot, Math.round(((at - left) / (width - left - right)) * (axes.length - 1)));
      });
      const brush = make("rect", { x: x - 11, width: 22, y: top, height: full, class: "brush" }, group);
      const range = brushes.get(axis);
      if (range) make("rect", { x: x - 5, width: 10, y: yOf(range[1]), height: Math.max(yOf(range[0]) - yOf(range[1]), 2), class: "kept" }, group);
      brush.addEventListener("dblclick", () => { brushes.delete(axis); draw(); });
      const preview = make("rect", { x: x - 5, width: 10, height: 0, class: "kept" }, group);
      dragged(brush, (event, start) => {
        const at = (y) => Math.min(Math.max(1 - (y - svg.getBoundingClientRect().top - top) / full, 0), 1);
        const ends = [at(start.clientY), at(event.clientY)].sort((a, b) => a - b);
        preview.setAttribute("y", yOf(ends[1]));
        preview.setAttribute("height", yOf(ends[0]) - yOf(ends[1]));
        if (event.type !== "pointerup") return;
        if (ends[1] - ends[0] > 0.01) brushes.set(axis, [ends[0] - 1e-6, ends[1] + 1e-6]);
        draw();
      });
    });
    place.append(told);
    say();
    place.dataset.drawn = "1";
  }
  function move(from, to) {
    if (to < 0 || to >= order.length || to === from) return;
    order.splice(to, 0, ...order.splice(from, 1));
    draw();
  }
  function dragged(element, moved) {
    element.addEventListener("pointerdown", (start) => {
      start.preventDefault();
      element.setPointerCapture(start.pointerId);
      const follow = (event) => moved(event, start);
      element.addEventListener("pointermove", follow);
      element.addEventListener("pointerup", (event) => { element.removeEventListener("pointermove", follow); moved(event, start); }, { once: true });
    });
  }
  draw();
}
