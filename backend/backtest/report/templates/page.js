(function () {
  "use strict";
  document.querySelectorAll(".chart[data-told]").forEach(function (box) {
    var told = null, svg = box.querySelector("svg"), hair = box.querySelector(".hair"), out = box.querySelector("output");
    function at(event) {
      told = told || JSON.parse(box.dataset.told);
      var frame = svg.getBoundingClientRect();
      var x = (event.clientX - frame.left) / frame.width * told.width;
      var last = told.days.length - 1;
      var place = Math.round((x - told.left) / (told.right - told.left) * last);
      place = Math.max(0, Math.min(last, place));
      var where = told.left + place / Math.max(last, 1) * (told.right - told.left);
      hair.setAttribute("x1", where);
      hair.setAttribute("x2", where);
      out.textContent = told.days[place] + ": " + told.names.map(function (name, line) {
        return name + " " + told.values[line][place];
      }).join(", ");
    }
    svg.addEventListener("pointermove", at);
    svg.addEventListener("pointerdown", at);
  });
  document.querySelectorAll("[data-pick]").forEach(function (box) {
    var figures = box.querySelectorAll("figure"), label = document.createElement("label"), list = document.createElement("select");
    if (figures.length < 2) { return; }
    figures.forEach(function (figure, number) {
      var option = document.createElement("option");
      option.value = number;
      option.textContent = figure.dataset.name;
      list.appendChild(option);
      figure.hidden = number > 0;
    });
    list.addEventListener("change", function () {
      figures.forEach(function (figure, number) { figure.hidden = number !== Number(list.value); });
    });
    label.textContent = "Share: ";
    label.appendChild(list);
    box.insertBefore(label, box.querySelector("figure"));
  });
})();
