// Labels images as label.py does, in Node: node label.cjs RUNTIME MODEL IMAGES.npy, in a folder with node_modules.
const fs = require("fs");
const path = require("path");
const needed = require("module").createRequire(path.join(process.cwd(), "any.js"));

const ABSENT = 3;

// Returns a Float32Array of each image, (height, width, RGB), and its shape with a batch of 1 in front.
function imagesOf(file) {
  const bytes = fs.readFileSync(file);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, start);
  const [count, ...shape] = header.match(/\((.*?)\)/)[1].split(",").map(Number);
  const size = shape.reduce((product, side) => product * side, 1);
  const image = (index) => Float32Array.from(bytes.subarray(start + index * size, start + (index + 1) * size));
  return { images: Array.from({ length: count }, (_, index) => image(index)), shape: [1, ...shape] };
}

function best(scores) {
  return scores.indexOf(Math.max(...scores));
}

async function onnxruntimeWeb(model, { images, shape }) {
  const ort = needed("onnxruntime-web");
  const session = await ort.InferenceSession.create(fs.readFileSync(model), { executionProviders: ["wasm"] });
  const labels = [];
  for (const image of images) {
    const found = await session.run({ pixels: new ort.Tensor("float32", image, shape) });
    labels.push(best(Array.from(found.logits.data)));
  }
  return labels;
}

// Reads model.json and the shards beside it, as a browser does over the network.
function filesOf(folder) {
  const { modelTopology, weightsManifest, ...rest } = JSON.parse(fs.readFileSync(path.join(folder, "model.json")));
  const parts = weightsManifest.flatMap((group) => group.paths.map((name) => fs.readFileSync(path.join(folder, name))));
  const whole = Buffer.concat(parts);
  const weightData = whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.byteLength);
  const weightSpecs = weightsManifest.flatMap((group) => group.weights);
  return { load: async () => ({ ...rest, modelTopology, weightSpecs, weightData }) };
}

async function tfjs(model, { images, shape }) {
  const tf = needed("@tensorflow/tfjs");
  const wasm = needed("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(path.join(path.dirname(needed.resolve("@tensorflow/tfjs-backend-wasm/package.json")), "dist/"));
  await tf.setBackend("wasm");
  const network = await tf.loadGraphModel(filesOf(model));
  return images.map((image) => tf.tidy(() => best(Array.from(network.predict(tf.tensor(image, shape)).dataSync()))));
}

const RUNTIMES = { onnxruntime_web: onnxruntimeWeb, tfjs };

const [name, model, file] = process.argv.slice(2);
RUNTIMES[name](model, imagesOf(file)).then(
  (labels) => {
    console.log(JSON.stringify(labels));
    process.exit(0);
  },
  (error) => {
    console.error(error.message);
    process.exit(error.code === "MODULE_NOT_FOUND" ? ABSENT : 1);
  }
);
