// A scrolling view of the volumes embedded in this page: one image in three planes, or several images of one grid side
// by side, linked. Axes: x left→right, y back→front, z bottom→top.
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
    const colours = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const values = new Uint8Array(nx * ny * nz);
    for (let z = 0; z < nz; z++) {
      const left = (z % volume.columns) * nx, top = Math.floor(z / volume.columns) * ny;
      for (let y = 0; y < ny; y++) {
        const row = (top + ny - 1 - y) * canvas.width + left;
        for (let x = 0; x < nx; x++) values[(z * ny + y) * nx + x] = colours[4 * (row + x)];
      }
    }
    return values;
  }

  // One volume after the other: unpacked all at once they would need gigabytes.
  async function load(stored) {
    const loaded = {...stored};
    for (const name of ["image", "score", "mask"])
      if (name in stored) loaded[name] = await unpack(stored[name]);
    return loaded;
  }
  const images = [];
  for (const stored of volume.images) images.push(await load(stored));
  const fused = volume.fused && await load(volume.fused);

  const at = volume.start.slice();
  const planes = [
    {id: "axial", across: 0, up: 1, through: 2},
    {id: "coronal", across: 0, up: 2, through: 1},
    {id: "sagittal", across: 1, up: 2, through: 0},
  ];
  const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
  // Told apart by colour-blind readers.
  const OWN = [235, 104, 0], FUSED = [86, 180, 233];
  const LOOKS = {
    none: () => ({}),
    outline: image => ({outlines: [[image.mask, OWN]]}),
    fused: () => ({outlines: [[fused.mask, FUSED]]}),
    both: image => ({outlines: [[image.mask, OWN], [fused.mask, FUSED]]}),
    mask: image => ({filled: image.mask}),
    score: image => ({heat: image.score}),
    fused_score: () => ({heat: fused.score}),
  };
  const control = Object.fromEntries(["shown", "overlay", "level", "width", "cross", "radiological", "readout"].map(
    id => [id, document.getElementById(id)]));
  const chosen = () => planes.filter(plane => !control.shown || ["all", plane.id].includes(control.shown.value));
  const index = (x, y, z) => (z * ny + y) * nx + x;
  const mirrored = plane => plane.across === 0 && control.radiological.checked;
  const column = (plane, u) => mirrored(plane) ? nx - 1 - u : u;
  const marked = (mask, point) =>
    point.every((v, axis) => v >= 0 && v < volume.shape[axis]) && mask[index(...point)] > 127;

  function onOutline(mask, point, {across, up}) {
    return marked(mask, point) && [[across, 1], [across, -1], [up, 1], [up, -1]].some(([axis, step]) => {
      const beside = point.slice();
      beside[axis] += step;
      return !marked(mask, beside);
    });
  }

  function draw(plane, image, pane) {
    const {across, up} = plane;
    const width = volume.shape[across], height = volume.shape[up];
    const context = pane.canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const point = at.slice();
    const gain = 255 / control.width.value, middle = 255 - control.level.value;
    const {outlines = [], filled, heat} = LOOKS[control.overlay.value](image);
    for (let v = 0; v < height; v++) {
      for (let u = 0; u < width; u++) {
        point[across] = column(plane, u);
        point[up] = height - 1 - v;
        const i = index(...point);
        const grey = image.image[i] === 0 ? 0 : 127 + (image.image[i] - middle) * gain;
        let red = grey, green = grey, blue = grey;
        if (heat) {
          const share = heat[i] / 255;
          red = red * (1 - share) + 255 * share;
          green = green * (1 - share) + 200 * share * share;
          blue = blue * (1 - share);
        } else if (filled && filled[i] > 127) {
          red = 0.45 * red + 0.55 * 213;
          green = 0.45 * green + 0.55 * 94;
          blue = 0.45 * blue;
        }
        const here = outlines.filter(([mask]) => mask[i] > 127 && onOutline(mask, point, plane));
        // Where outlines run together they are dashed in all their colours.
        if (here.length) [red, green, blue] = here[(u + 2 * v >> 1) % here.length][1];
        pixels.data.set([red, green, blue, 255], 4 * (v * width + u));
      }
    }
    context.putImageData(pixels, 0, 0);
    if (control.cross.checked) {
      // Beside the blue outline of fused detections a blue cross would mislead.
      context.fillStyle = fused ? "rgba(90, 200, 130, 0.6)" : "rgba(80, 180, 220, 0.6)";
      context.fillRect(column(plane, at[across]), 0, 1, height);
      context.fillRect(0, height - 1 - at[up], width, 1);
    }
    const ends = mirrored(plane) ? ENDS[across].slice().reverse() : ENDS[across];
    [...ends, ENDS[up][1], ENDS[up][0]].forEach((text, side) => { pane.sides[side].textContent = text; });
    if (pane.output) pane.output.textContent = found(image).join(" · ");
  }

  function found({score, mask}) {
    const i = index(...at);
    return [`score ${(score[i] / 255 * volume.score_max).toPrecision(3)}`, mask[i] > 127 ? "marked" : "not marked"];
  }

  function show() {
    for (const plane of chosen()) {
      plane.panes.forEach((pane, which) => draw(plane, images[which], pane));
      plane.slider.value = at[plane.through];
      plane.output.textContent = volume.origin[plane.through] + volume.step * at[plane.through];
    }
    const voxel = at.map((v, axis) => volume.origin[axis] + volume.step * v);
    const mm = volume.affine.slice(0, 3).map(row => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
    control.readout.textContent = [
      `voxel ${voxel.join(", ")}`, `${mm.map(v => v.toFixed(1)).join(", ")} mm`,
      (fused ? "fused " : "") + found(fused || images[0]).join(" · "),
    ].join(" · ");
  }

  function move(axis, to) {
    at[axis] = Math.min(volume.shape[axis] - 1, Math.max(0, Math.round(to)));
  }

  // All panes share one scale, pixels a millimetre: planes of one image stand beside each other and fill the page's
  // width where they can; several images stand in as many columns as show them largest on one screen.
  function fit() {
    const shown = chosen(), gap = 16, room = document.getElementById("planes").clientWidth;
    const widths = shown.map(plane => volume.shape[plane.across] * volume.spacing[plane.across]);
    const heights = shown.map(plane => volume.shape[plane.up] * volume.spacing[plane.up]);
    const sum = values => values.reduce((a, b) => a + b, 0);
    let zoom = images.length > 1 ? 0 : (room - 40) / sum(widths);
    for (let columns = 1; images.length > 1 && columns <= images.length; columns++) {
      const across = (room - gap * (columns - 1)) / columns / Math.max(...widths);
      const down = 0.85 * window.innerHeight / (Math.ceil(images.length / columns) * sum(heights));
      zoom = Math.max(zoom, Math.min(across, down));
    }
    zoom = Math.max(1, Math.min(4, zoom));
    for (const plane of planes) {
      plane.figure.hidden = !shown.includes(plane);
      for (const {canvas} of plane.panes) {
        canvas.style.width = `${canvas.width * volume.spacing[plane.across] * zoom}px`;
        canvas.style.height = `${canvas.height * volume.spacing[plane.up] * zoom}px`;
      }
    }
  }

  function listen(plane, canvas) {
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      move(plane.through, at[plane.through] - Math.sign(event.deltaY));
      show();
    }, {passive: false});
    canvas.addEventListener("click", event => {
      const box = canvas.getBoundingClientRect();
      const u = (event.clientX - box.left) / box.width * canvas.width - 0.5;
      move(plane.across, mirrored(plane) ? canvas.width - 1 - u : u);
      move(plane.up, canvas.height - 0.5 - (event.clientY - box.top) / box.height * canvas.height);
      show();
    });
  }

  for (const plane of planes) {
    plane.figure = document.getElementById(plane.id);
    plane.output = plane.figure.querySelector("figcaption output");
    plane.slider = plane.figure.querySelector("input");
    plane.slider.max = volume.shape[plane.through] - 1;
    plane.slider.addEventListener("input", () => { move(plane.through, plane.slider.value); show(); });
    plane.panes = [...plane.figure.querySelectorAll(".pane")].map(pane => ({
      canvas: pane.querySelector("canvas"),
      sides: ["left", "right", "top", "bottom"].map(side => pane.querySelector(`.${side}`)),
      output: pane.parentElement.querySelector(".caption output"),
    }));
    for (const {canvas} of plane.panes) {
      canvas.width = volume.shape[plane.across];
      canvas.height = volume.shape[plane.up];
      listen(plane, canvas);
    }
  }
  for (const id of ["overlay", "level", "width", "cross", "radiological"]) control[id].addEventListener("input", show);
  control.shown?.addEventListener("input", () => { fit(); show(); });
  window.addEventListener("resize", fit);
  for (const row of document.querySelectorAll("[data-voxel]")) {
    row.addEventListener("click", () => {
      JSON.parse(row.dataset.voxel).forEach((v, axis) => move(axis, (v - volume.origin[axis]) / volume.step));
      show();
      document.getElementById("viewer").scrollIntoView({block: "nearest"});
    });
  }
  fit();
  show();
  document.body.dataset.ready = "yes";
})();
