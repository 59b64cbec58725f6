// A scrolling three-plane view of the volumes embedded in this page. Axes: x left→right, y back→front, z bottom→top.
(async () => {
  const volume = JSON.parse(document.getElementById("volume").textContent);
  const [nx, ny, nz] = volume.shape;

  // The axial slices lie side by side in one picture, front up.
  async function unpack(url) {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    const canvas = document.createElement("canvas");
    canvas.width = picture.width;
    canvas.height = picture.height;
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(picture, 0, 0);
    const values = new Uint8Array(nx * ny * nz);
    for (let z = 0; z < nz; z++) {
      const left = (z % volume.columns) * nx, top = Math.floor(z / volume.columns) * ny;
      const tile = context.getImageData(left, top, nx, ny).data;
      for (let y = 0; y < ny; y++)
        for (let x = 0; x < nx; x++)
          values[(z * ny + y) * nx + x] = tile[4 * ((ny - 1 - y) * nx + x)];
    }
    return values;
  }

  const [image, score, mask] = await Promise.all(["image", "score", "mask"].map(name => unpack(volume[name])));
  const at = volume.start.slice();
  const planes = [
    {id: "axial", across: 0, up: 1, through: 2},
    {id: "coronal", across: 0, up: 2, through: 1},
    {id: "sagittal", across: 1, up: 2, through: 0},
  ];
  const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
  const control = Object.fromEntries(
    ["overlay", "level", "width", "cross", "radiological", "readout"].map(id => [id, document.getElementById(id)]));
  const index = (x, y, z) => (z * ny + y) * nx + x;
  const mirrored = plane => plane.across === 0 && control.radiological.checked;
  const column = (plane, u) => mirrored(plane) ? nx - 1 - u : u;
  const marked = point => point.every((v, axis) => v >= 0 && v < volume.shape[axis]) && mask[index(...point)] > 127;

  function onOutline(point, across, up) {
    return [[across, 1], [across, -1], [up, 1], [up, -1]].some(([axis, step]) => {
      const beside = point.slice();
      beside[axis] += step;
      return !marked(beside);
    });
  }

  function draw(plane) {
    const {canvas, across, up, through, slider} = plane;
    const width = volume.shape[across], height = volume.shape[up];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const point = at.slice();
    const gain = 255 / control.width.value, middle = 255 - control.level.value, overlay = control.overlay.value;
    for (let v = 0; v < height; v++) {
      for (let u = 0; u < width; u++) {
        point[across] = column(plane, u);
        point[up] = height - 1 - v;
        const i = index(...point), o = 4 * (v * width + u);
        const grey = image[i] === 0 ? 0 : 127 + (image[i] - middle) * gain;
        let red = grey, green = grey, blue = grey;
        if (overlay === "score") {
          const heat = score[i] / 255;
          red = red * (1 - heat) + 255 * heat;
          green = green * (1 - heat) + 200 * heat * heat;
          blue = blue * (1 - heat);
        } else if (overlay === "mask" && mask[i] > 127) {
          red = 0.45 * red + 0.55 * 213;
          green = 0.45 * green + 0.55 * 94;
          blue = 0.45 * blue;
        } else if (overlay === "outline" && mask[i] > 127 && onOutline(point, across, up)) {
          [red, green, blue] = [235, 104, 0];
        }
        pixels.data.set([red, green, blue, 255], o);
      }
    }
    context.putImageData(pixels, 0, 0);
    if (control.cross.checked) {
      context.fillStyle = "rgba(80, 180, 220, 0.6)";
      context.fillRect(column(plane, at[across]), 0, 1, height);
      context.fillRect(0, height - 1 - at[up], width, 1);
    }
    slider.value = at[through];
    plane.output.textContent = volume.origin[through] + volume.step * at[through];
    const ends = mirrored(plane) ? ENDS[across].slice().reverse() : ENDS[across];
    [...ends, ENDS[up][1], ENDS[up][0]].forEach((text, side) => { plane.sides[side].textContent = text; });
  }

  function show() {
    planes.forEach(draw);
    const voxel = at.map((v, axis) => volume.origin[axis] + volume.step * v);
    const mm = volume.affine.slice(0, 3).map(row => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
    const i = index(...at);
    control.readout.textContent =
      `voxel ${voxel.join(", ")} · ${mm.map(v => v.toFixed(1)).join(", ")} mm · ` +
      `score ${(score[i] / 255 * volume.score_max).toPrecision(3)} · ${mask[i] > 127 ? "marked" : "not marked"}`;
  }

  function move(axis, to) {
    at[axis] = Math.min(volume.shape[axis] - 1, Math.max(0, Math.round(to)));
  }

  // The three planes share one scale and fill the page's width where they can.
  const wide = planes.reduce((sum, plane) => sum + volume.shape[plane.across] * volume.spacing[plane.across], 0);
  const room = document.getElementById("planes").clientWidth - 40;
  const zoom = Math.max(1, Math.min(4, room / wide));
  for (const plane of planes) {
    const figure = document.getElementById(plane.id);
    const width = volume.shape[plane.across], height = volume.shape[plane.up];
    plane.canvas = figure.querySelector("canvas");
    plane.canvas.width = width;
    plane.canvas.height = height;
    plane.canvas.style.width = `${width * volume.spacing[plane.across] * zoom}px`;
    plane.canvas.style.height = `${height * volume.spacing[plane.up] * zoom}px`;
    plane.output = figure.querySelector("output");
    plane.sides = ["left", "right", "top", "bottom"].map(side => figure.querySelector(`.${side}`));
    plane.slider = figure.querySelector("input");
    plane.slider.max = volume.shape[plane.through] - 1;
    plane.slider.addEventListener("input", () => { move(plane.through, plane.slider.value); show(); });
    plane.canvas.addEventListener("wheel", event => {
      event.preventDefault();
      move(plane.through, at[plane.through] - Math.sign(event.deltaY));
      show();
    }, {passive: false});
    plane.canvas.addEventListener("click", event => {
      const box = plane.canvas.getBoundingClientRect();
      const u = (event.clientX - box.left) / box.width * width - 0.5;
      move(plane.across, mirrored(plane) ? width - 1 - u : u);
      move(plane.up, height - 0.5 - (event.clientY - box.top) / box.height * height);
      show();
    });
  }
  for (const id of ["overlay", "level", "width", "cross", "radiological"]) control[id].addEventListener("input", show);
  for (const row of document.querySelectorAll("[data-voxel]")) {
    row.addEventListener("click", () => {
      JSON.parse(row.dataset.voxel).forEach((v, axis) => move(axis, (v - volume.origin[axis]) / volume.step));
      show();
      document.getElementById("viewer").scrollIntoView({block: "nearest"});
    });
  }
  show();
  document.body.dataset.ready = "yes";
})();
