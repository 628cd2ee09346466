// Writes an image and reads it back, knowing nothing of Ziggurat but its .proto files.
//
//   node node_client.js HOST:PORT DIRECTORY_OF_PROTO IMAGE
//
// Prints as JSON what it found; ends with 1 and a message where it can't.
'use strict';

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const [address, protos, image] = process.argv.slice(2);
const ROWS = 300;
const COLUMNS = 200;
const STRIP = 64;

const definition = protoLoader.loadSync('ziggurat_proto/v1/service.proto', {
  includeDirs: [protos],
  longs: Number,
  enums: String,
});
const { Ziggurat } = grpc.loadPackageDefinition(definition).ziggurat.v1;
const client = new Ziggurat(address, grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': -1,
});

function unary(method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// Pixel (y, x) is y * COLUMNS + x, modulo 2 ** 16.
function strip(first, rows) {
  const pixels = Buffer.alloc(rows * COLUMNS * 2);
  for (let i = 0; i < rows * COLUMNS; i += 1) {
    pixels.writeUInt16LE((first * COLUMNS + i) % 65536, 2 * i);
  }
  return pixels;
}

function write() {
  return new Promise((resolve, reject) => {
    const stream = client.WriteStream();
    let closed = null;
    stream.on('error', reject);
    stream.on('end', () => resolve(closed));
    stream.on('data', (answer) => {
      if (answer.opened) {
        let sequence = answer.opened.nextSequence;
        for (let first = 0; first < ROWS; first += STRIP) {
          const rows = Math.min(STRIP, ROWS - first);
          const payload = strip(first, rows);
          stream.write({ region: { sequence, offset: [first, 0], shape: [rows, COLUMNS], payload } });
          sequence += 1;
        }
        stream.write({ close: {} });
        stream.end();
      } else if (answer.closed) {
        closed = answer.closed;
      }
    });
    stream.write({ open: { image, streamId: 'node' } });
  });
}

function read(level) {
  return new Promise((resolve, reject) => {
    const stream = client.ReadRegion({ image, level });
    let header = null;
    let pixels = null;
    stream.on('error', reject);
    stream.on('end', () => resolve({ header, pixels }));
    stream.on('data', (answer) => {
      if (answer.header) {
        header = answer.header;
        pixels = Buffer.alloc(header.shape[0] * header.shape[1] * 2);
      }
      if (!answer.part) return;
      const { offset, shape, payload } = answer.part;
      for (let row = 0; row < shape[0]; row += 1) {
        const source = row * shape[1] * 2;
        const target = ((offset[0] + row) * header.shape[1] + offset[1]) * 2;
        payload.copy(pixels, target, source, source + shape[1] * 2);
      }
    });
  });
}

async function main() {
  const axes = [{ name: 'y', size: ROWS }, { name: 'x', size: COLUMNS }];
  const layout = { chunkShape: { sizes: [64, 64] }, shardChunks: { sizes: [2, 2] } };
  await unary('CreateImage', { spec: { name: image, axes, dataType: 'DATA_TYPE_UINT16', layout } });
  const closed = await write();
  const full = await read(0);
  const half = await read(1);
  const metadata = new grpc.Metadata();
  metadata.set('x-request-id', 'from-node');
  const missing = await unary('GetImage', { name: `${image}-none` }, metadata).catch((e) => e);
  console.log(JSON.stringify({
    closed,
    same: full.pixels.equals(strip(0, ROWS)),
    dataType: full.header.dataType,
    halfShape: half.header.shape,
    halfFirst: half.pixels.readUInt16LE(0),
    error: missing.code,
    requestId: missing.metadata.get('x-request-id')[0],
  }));
}

main().then(() => client.close(), (error) => {
  console.error(error);
  process.exit(1);
});
