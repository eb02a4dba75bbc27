
(function () {
  "use strict";
  var svg = document.currentScript.closest("svg");
  var WIDTH = svg.viewBox.baseVal.width, CHARACTER = 6.6, NS = "http://www.w3.org/2000/svg";
  var find = function (name) { return svg.querySelector("." + name); };
  var boxes = Array.prototype.map.call(svg.querySelectorAll(".box"), function (g) {
    var rect = g.querySelector("rect"), told = g.querySelector("title").textContent;
    return { g: g, rect: rect, label: g.querySelector("text"), told: told, name: told.replace(/: [^:]*$/, ""),
      x: +rect.getAttribute("x"), w: +rect.getAttribute("width"), y: +rect.getAttribute("y") };
  });
  function zoom(to) {
    boxes.forEach(function (box) {
      var above = to.y > box.y;
      var inside = above ? box.x <= to.x + 0.01 && box.x + box.w >= to.x + to.w - 0.01
        : box.x >= to.x - 0.01 && box.x + box.w <= to.x + to.w + 0.01;
      box.g.style.display = inside ? "" : "none";
      if (!inside) return;
      var x = above ? 0 : (box.x - to.x) / to.w * WIDTH, w = above ? WIDTH : box.w / to.w * WIDTH;
      box.rect.setAttribute("x", x);
      box.rect.setAttribute("width", w);
      box.g.classList.toggle("above", above);
      var room = Math.floor((w - 6) / CHARACTER);
      if (!box.label) {
        if (3 > room) return;
        box.label = box.g.appendChild(document.createElementNS(NS, "text"));
        box.label.setAttribute("y", box.y + 13);
      }
      box.label.setAttribute("x", x + 3);
      box.label.textContent = 3 > room ? "" : box.name.length > room ? box.name.slice(0, room - 1) + "\u2026" : box.name;
    });
    find("reset").toggleAttribute("hidden", to === boxes[0]);
  }
  function search() {
    var wanted = prompt("Part of a name (nothing: none)", "");
    if (wanted === null) return;
    wanted = wanted.toLowerCase();
    var hits = boxes.filter(function (box) {
      var hit = wanted !== "" ? box.name.toLowerCase().indexOf(wanted) >= 0 : false;
      box.g.classList.toggle("hit", hit);
      return hit;
    });
    // A box that stands on another hit is in it already.
    hits.sort(function (a, b) { return a.y - b.y; });
    var sum = 0, taken = [];
    hits.forEach(function (hit) {
      var within = taken.some(function (t) { return hit.x >= t.x - 0.01 ? t.x + t.w + 0.01 >= hit.x + hit.w : false; });
      if (!within) { taken.push(hit); sum += hit.w; }
    });
    find("found").textContent = wanted === "" ? "" : hits.length + " found, " + (sum / WIDTH * 100).toFixed(1) + " %";
  }
  boxes.forEach(function (box) {
    box.g.style.cursor = "pointer";
    box.g.addEventListener("click", function () { zoom(box); });
  });
  find("search").removeAttribute("hidden");
  find("search").addEventListener("click", search);
  find("reset").addEventListener("click", function () { zoom(boxes[0]); });
})();
