// Patterns beside colours: what a colour says is also seen in grey, and by who sees no red or green.

// A diagonal hatch of one colour, on nothing.
function hatch(pen, ink, size = 6) {
  return patternOf(pen, `hatch ${ink} ${size}`, size, (paper) => {
    paper.strokeStyle = ink;
    paper.lineWidth = 1.2;
    paper.beginPath();
    for (const shift of [-size, 0, size]) { paper.moveTo(shift - 1, size + 1); paper.lineTo(shift + size + 1, -1); }
    paper.stroke();
  });
}

// A grid of dots of one colour, on nothing.
function dots(pen, ink, size = 5) {
  return patternOf(pen, `dots ${ink} ${size}`, size, (paper) => { paper.fillStyle = ink; paper.fillRect(1, 1, 2, 2); });
}

// Level lines of one colour, on nothing.
function lines(pen, ink, size = 5) {
  return patternOf(pen, `lines ${ink} ${size}`, size, (paper) => { paper.fillStyle = ink; paper.fillRect(0, 2, size, 1); });
}

// The ink that is read on a colour, given as #rrggbb.
function readableOn(ground) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(ground.slice(at, at + 2), 16));
  return red * 0.3 + green * 0.59 + blue * 0.11 > 125 ? "#101214" : "#ffffff";
}

const patterns = new Map();
function patternOf(pen, name, size, draw) {
  if (!patterns.has(name)) {
    const tile = make("canvas", { width: size, height: size });
    draw(tile.getContext("2d"));
    patterns.set(name, tile);
  }
  return pen.createPattern(patterns.get(name), "repeat");
}
