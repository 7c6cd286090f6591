// Points on a canvas: where they are, which is near, how they are drawn and named.

const HUES = ["similar", "dissimilar", "green", "purple", "yellow", "mark", "text", "neutral"];
const MARKS = ["●", "▲", "■", "◆", "▼", "✚", "★", "·"]; // in a legend, as `sprite` draws them

const turn = (steps, radius, from = 0) =>
  [...Array(steps).keys()].map((i) => {
    const [angle, r] = [from + (2 * Math.PI * i) / steps, radius(i)];
    return [r * Math.sin(angle), -r * Math.cos(angle)];
  });
const SHAPES = [
  turn(16, () => 1),
  turn(3, () => 1.4),
  turn(4, () => 1.3, Math.PI / 4),
  turn(4, () => 1.4),
  turn(3, () => 1.4, Math.PI),
  turn(12, (i) => (i % 3 ? 1.4 : 0.6), Math.PI / 4),
  turn(10, (i) => (i % 2 ? 0.6 : 1.6)),
  turn(8, () => 0.8),
];

class Plane {
  constructor(canvas, points) {
    Object.assign(this, { canvas, points, count: points.length / 2, context: canvas.getContext("2d") });
    Object.assign(this, { scale: 1, left: 0, top: 0 }); // screen = point * scale + (left, top); y points up
  }

  at(i) {
    return [this.points[2 * i] * this.scale + this.left, this.top - this.points[2 * i + 1] * this.scale];
  }

  has([x, y]) {
    return x >= 0 && y >= 0 && x <= this.canvas.clientWidth && y <= this.canvas.clientHeight;
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [xs, ys] = [0, 1].map((odd) => this.points.filter((_, i) => i % 2 === odd).sort());
    const [x0, x1, y0, y1] = [xs[0], xs.at(-1), ys[0], ys.at(-1)];
    this.scale = 0.92 * Math.min(width / (x1 - x0 || 1), height / (y1 - y0 || 1));
    this.left = width / 2 - (this.scale * (x0 + x1)) / 2;
    this.top = height / 2 + (this.scale * (y0 + y1)) / 2;
  }

  zoom(by, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    this.scale *= by;
    [this.left, this.top] = [x + (this.left - x) * by, y + (this.top - y) * by];
  }

  // The nearest point within reach for which `wanted(dx, dy, point)` holds.
  nearest([x, y], wanted = () => true, reach = 14) {
    let [best, least] = [undefined, reach];
    for (let i = 0; i < this.count; i++) {
      const [a, b] = this.at(i);
      const far = Math.hypot(a - x, b - y);
      if (far < least && wanted(a - x, b - y, i)) [best, least] = [i, far];
    }
    return best;
  }

  // The points inside a closed line.
  inside(line) {
    const odd = ([x, y]) =>
      line.filter(([x1, y1], i) => {
        const [x2, y2] = line.at(i - 1);
        return y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1;
      }).length % 2;
    return [...Array(this.count).keys()].filter((i) => odd(this.at(i)));
  }

  // Empties the canvas, or leaves what was last kept.
  clear(kept = false) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [wide, high] = [width, height].map((each) => Math.round(each * devicePixelRatio));
    if (this.canvas.width !== wide || this.canvas.height !== high) Object.assign(this.canvas, { width: wide, height: high });
    this.context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    if (kept && wide && high) this.context.drawImage(this.kept, 0, 0, width, height);
  }

  keep() {
    const { width, height } = this.canvas;
    this.kept = Object.assign(document.createElement("canvas"), { width, height });
    if (width && height) this.kept.getContext("2d").drawImage(this.canvas, 0, 0);
  }

  line(places, style, apart = places.length) {
    this.context.beginPath();
    places.forEach((place, i) => this.context[i % apart ? "lineTo" : "moveTo"](...place));
    Object.assign(this.context, { lineWidth: 1 }, style);
    this.context.stroke();
    this.context.globalAlpha = 1;
  }

  ring(i, radius, strokeStyle) {
    const [x, y] = this.at(i);
    this.line(turn(25, () => radius).concat([[0, -radius]]).map(([a, b]) => [x + a, y + b]), { strokeStyle, lineWidth: 2 });
  }

  // A function that draws points with this mark: a small picture is copied much faster than a path is filled.
  sprite(mark, color, radius, alpha) {
    const size = 4 * radius;
    const small = Object.assign(document.createElement("canvas"), { width: size * devicePixelRatio, height: size * devicePixelRatio });
    const context = small.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    SHAPES[mark].forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](size / 2 + radius * x, size / 2 + radius * y));
    Object.assign(context, { fillStyle: color, globalAlpha: alpha });
    context.fill();
    return ([x, y]) => this.context.drawImage(small, x - size / 2, y - size / 2, size, size);
  }

  // Texts beside points, each where it covers neither another text nor one of these points.
  name(trees, texts, text, halo, line) {
    const { context, canvas } = this;
    const taken = trees.map((i) => [this.at(i)[0] - 6, this.at(i)[1] - 6, 12, 12]);
    Object.assign(context, { font: "12px sans-serif", textBaseline: "top", lineJoin: "round" });
    for (const [k, i] of trees.entries()) {
      const [x, y] = this.at(i);
      const w = context.measureText(texts[k]).width + 4;
      const free = ([a, b]) =>
        a >= 0 && b >= 0 && a + w <= canvas.clientWidth && b + 16 <= canvas.clientHeight &&
        taken.every(([c, d, e, f]) => a + w < c || c + e < a || b + 16 < d || d + f < b);
      const around = [[0, -8], [-w, -8], [-w / 2, -16], [-w / 2, 0], [0, -16], [0, 0], [-w, -16], [-w, 0]];
      const ways = [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [1, 1], [-1, -1], [-1, 1]];
      const tries = [10, 30, 60, 100, 150].flatMap((far) => ways.map(([a, b], n) => [x + far * a + around[n][0], y + far * b + around[n][1]]));
      const place = this.has([x, y]) && tries.find(free);
      if (!place) continue;
      taken.push([...place, w, 16]);
      this.line([[x, y], [Math.min(Math.max(x, place[0]), place[0] + w), Math.min(Math.max(y, place[1]), place[1] + 16)]], { strokeStyle: line });
      Object.assign(context, { strokeStyle: halo, lineWidth: 5, fillStyle: text });
      context.strokeText(texts[k], place[0] + 2, place[1] + 2);
      context.fillText(texts[k], place[0] + 2, place[1] + 2);
    }
  }
}
