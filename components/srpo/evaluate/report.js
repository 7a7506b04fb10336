"use strict";
// The viewer of image pairs: both images move together, so that the same place is in sight before and after.
(() => {
  const viewer = document.getElementById("viewer");
  const panes = viewer.querySelector(".panes");
  const figures = [...panes.querySelectorAll("figure")];
  const images = figures.map((figure) => figure.querySelector("img"));
  const openers = [...document.querySelectorAll("button.two")];
  const view = { at: 0, scale: 1, x: 0, y: 0, single: false, after: false };
  const pointers = new Map();

  function paint() {
    for (const image of images) image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    figures[0].hidden = view.single && view.after;
    figures[1].hidden = view.single && !view.after;
    panes.classList.toggle("single", view.single);
    button("place").setAttribute("aria-pressed", String(view.single));
    button("swap").hidden = !view.single;
    button("fit").textContent = `${Math.round(view.scale * 100)} %`;
  }

  function button(name) {
    return viewer.querySelector(`[data-do="${name}"]`);
  }

  function size() {
    const pane = images[view.single && view.after ? 1 : 0].parentElement;
    return [pane.clientWidth, pane.clientHeight];
  }

  // Zoom by a factor about a point of the pane; nothing ever leaves the pane's edge.
  function zoom(factor, point = size().map((length) => length / 2)) {
    const scale = Math.min(16, Math.max(1, view.scale * factor));
    view.x = point[0] - ((point[0] - view.x) * scale) / view.scale;
    view.y = point[1] - ((point[1] - view.y) * scale) / view.scale;
    view.scale = scale;
    pan(0, 0);
  }

  function pan(x, y) {
    const [width, height] = size();
    view.x = Math.min(0, Math.max(width * (1 - view.scale), view.x + x));
    view.y = Math.min(0, Math.max(height * (1 - view.scale), view.y + y));
    paint();
  }

  function show(at) {
    view.at = (at + openers.length) % openers.length;
    Object.assign(view, { scale: 1, x: 0, y: 0, after: false });
    const opener = openers[view.at];
    opener.querySelectorAll("img").forEach((image, side) => {
      images[side].src = image.src;
      images[side].alt = image.alt;
      images[side].classList.toggle("small", image.classList.contains("small"));
    });
    const caption = opener.closest("figure").querySelector("figcaption");
    document.getElementById("viewer-title").textContent = caption.querySelector(".prompt").title;
    document.getElementById("viewer-changes").textContent = [...caption.querySelectorAll(".changes span")]
      .map((part) => part.textContent)
      .join("  ·  ");
    paint();
  }

  const actions = {
    close: () => viewer.close(),
    previous: () => show(view.at - 1),
    next: () => show(view.at + 1),
    in: () => zoom(1.5),
    out: () => zoom(1 / 1.5),
    fit: () => zoom(1 / view.scale),
    place: () => {
      const before = size();
      Object.assign(view, { single: !view.single, after: false });
      paint();
      const now = size(); // the same place stays in sight in a pane of another size
      Object.assign(view, { x: (view.x * now[0]) / before[0], y: (view.y * now[1]) / before[1] });
      pan(0, 0);
    },
    swap: () => {
      view.after = !view.after;
      paint();
    },
  };
  const keys = { "+": "in", "=": "in", "-": "out", 0: "fit", i: "place", s: "swap", PageUp: "previous", PageDown: "next" };
  const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  openers.forEach((opener, at) =>
    opener.addEventListener("click", () => {
      viewer.showModal();
      show(at);
    }),
  );
  viewer.addEventListener("close", () => openers[view.at].focus());
  viewer.addEventListener("click", (event) => {
    const pressed = event.target.closest("[data-do]");
    if (pressed) actions[pressed.dataset.do]();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keys[event.key];
    const arrow = arrows[event.key];
    if (action && !(action === "swap" && !view.single)) actions[action]();
    else if (arrow && view.scale > 1) pan(arrow[0] * 60, arrow[1] * 60);
    else if (event.key === "ArrowLeft") actions.previous();
    else if (event.key === "ArrowRight") actions.next();
    else return;
    event.preventDefault();
  });

  function place(event) {
    const box = event.currentTarget.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  function spread() {
    const [first, second] = [...pointers.values()];
    return Math.hypot(first[0] - second[0], first[1] - second[1]);
  }

  for (const pane of panes.querySelectorAll(".pane")) {
    pane.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        zoom(Math.exp(-event.deltaY / 400), place(event));
      },
      { passive: false },
    );
    pane.addEventListener("dblclick", (event) => zoom(view.scale > 1 ? 1 / view.scale : 4, place(event)));
    pane.addEventListener("pointerdown", (event) => {
      pane.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
    });
    pane.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = place(event);
      const apart = pointers.size === 2 ? spread() : 0;
      pointers.set(event.pointerId, now);
      if (apart) zoom(spread() / apart, now);
      else pan(now[0] - before[0], now[1] - before[1]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      pane.addEventListener(end, (event) => pointers.delete(event.pointerId));
    }
  }
})();
