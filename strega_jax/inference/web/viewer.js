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
  const overlay = document.getElementById("overlay");
  const readout = document.getElementById("readout");
  const index = (x, y, z) => (z * ny + y) * nx + x;

  function draw(plane) {
    const {canvas, across, up, through, slider} = plane;
    const width = volume.shape[across], height = volume.shape[up];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const point = at.slice();
    for (let v = 0; v < height; v++) {
      for (let u = 0; u < width; u++) {
        point[across] = u;
        point[up] = height - 1 - v;
        const i = index(...point), o = 4 * (v * width + u);
        let red = image[i], green = image[i], blue = image[i];
        if (overlay.value === "score") {
          const heat = score[i] / 255;
          red = red * (1 - heat) + 255 * heat;
          green = green * (1 - heat) + 200 * heat * heat;
          blue = blue * (1 - heat);
        } else if (overlay.value === "mask" && mask[i] > 127) {
          red = 0.45 * red + 0.55 * 213;
          green = 0.45 * green + 0.55 * 94;
          blue = 0.45 * blue;
        }
        const cross = u === at[across] || height - 1 - v === at[up];
        pixels.data.set(cross ? [0.5 * red, 0.5 * green + 80, 0.5 * blue + 100, 255] : [red, green, blue, 255], o);
      }
    }
    context.putImageData(pixels, 0, 0);
    slider.value = at[through];
  }

  function show() {
    planes.forEach(draw);
    const voxel = at.map((v, axis) => volume.origin[axis] + volume.step * v);
    const mm = volume.affine.slice(0, 3).map(row => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
    const i = index(...at);
    readout.textContent =
      `voxel ${voxel.join(", ")} · ${mm.map(v => v.toFixed(1)).join(", ")} mm · ` +
      `score ${(score[i] / 255 * volume.score_max).toPrecision(3)} · ${mask[i] > 127 ? "marked" : "not marked"}`;
  }

  function move(axis, to) {
    at[axis] = Math.min(volume.shape[axis] - 1, Math.max(0, Math.round(to)));
  }

  for (const plane of planes) {
    const figure = document.getElementById(plane.id);
    const width = volume.shape[plane.across], height = volume.shape[plane.up];
    plane.canvas = figure.querySelector("canvas");
    plane.canvas.width = width;
    plane.canvas.height = height;
    const zoom = 1.6;
    plane.canvas.style.width = `${width * volume.spacing[plane.across] * zoom}px`;
    plane.canvas.style.height = `${height * volume.spacing[plane.up] * zoom}px`;
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
      move(plane.across, (event.clientX - box.left) / box.width * width - 0.5);
      move(plane.up, height - 0.5 - (event.clientY - box.top) / box.height * height);
      show();
    });
  }
  overlay.addEventListener("change", show);
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
