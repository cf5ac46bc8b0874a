// tus-js-client and tuspy, unchanged, upload to the hub; what they sent is analysed.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as tus from 'tus-js-client';
import { api, ended, startHub, vulnerableSource } from './hub.js';

const here = dirname(fileURLToPath(import.meta.url));
let hub;

before(async () => { hub = await startHub(); });
after(async () => { assert.equal(await hub.stop(), 0, 'munjigi up ends with 0 when told to'); });

function upload(source, options = {}) {
  return new Promise((resolve, reject) => {
    const task = new tus.Upload(source, {
      endpoint: `${hub.url}/api/uploads`,
      headers: { authorization: `Bearer ${hub.token}` },
      metadata: { filename: 'ping.py', filetype: 'text/x-python' },
      chunkSize: 64 * 1024,
      retryDelays: [0, 100, 300],
      onError: reject,
      onSuccess: () => resolve(task.url),
      ...options,
    });
    task.start();
    options.started?.(task, resolve);
  });
}

async function analysed(uploadUrl) {
  const id = new URL(uploadUrl).pathname.split('/').pop();
  const created = await api(hub, 'POST', '/jobs', { upload: id, models: ['source'] });
  assert.equal(created.status, 201);
  const job = await ended(hub, created.body.eventId);
  assert.equal(job.status, 'DONE');
  const { body } = await api(hub, 'GET', `/jobs/${job.eventId}/findings`);
  return body.findings.map((finding) => finding.locations[0].physicalLocation.artifactLocation.uri);
}

test('tus-js-client uploads in chunks, and the file is analysed', async () => {
  const url = await upload(vulnerableSource(300_000));
  assert.deepEqual([...new Set(await analysed(url))], ['ping.py']);
});

test('tus-js-client goes on where it stopped', async () => {
  const source = vulnerableSource(1_000_000);
  let half;
  await new Promise((resolve, reject) => {
    half = new tus.Upload(source, {
      endpoint: `${hub.url}/api/uploads`,
      headers: { authorization: `Bearer ${hub.token}` },
      metadata: { filename: 'ping.py' },
      chunkSize: 100_000,
      onError: reject,
      onSuccess: () => reject(new Error('it was to be stopped half-way')),
      onChunkComplete: (_, sent) => { if (sent >= 300_000) half.abort().then(resolve, reject); },
    });
    half.start();
  });
  const head = await fetch(half.url, { method: 'HEAD', headers: { authorization: `Bearer ${hub.token}`, 'tus-resumable': '1.0.0' } });
  const offset = Number(head.headers.get('upload-offset'));
  assert.ok(offset >= 300_000 && offset < source.length, `it stopped at ${offset}`);
  const url = await upload(source, { uploadUrl: half.url });
  assert.equal(url, half.url);
  assert.deepEqual([...new Set(await analysed(url))], ['ping.py']);
});

test('tus-js-client ends an upload, and nothing is left of it', async () => {
  const url = await upload(vulnerableSource(10_000));
  await tus.Upload.terminate(url, { headers: { authorization: `Bearer ${hub.token}` } });
  const head = await fetch(url, { method: 'HEAD', headers: { authorization: `Bearer ${hub.token}`, 'tus-resumable': '1.0.0' } });
  assert.ok([404, 410].includes(head.status), `HEAD answers ${head.status}`);
});

test('tuspy uploads, stops, and goes on', async () => {
  const file = join(hub.data, 'ping.py');
  const source = vulnerableSource(900_000);
  await writeFile(file, source);
  const python = process.env.PYTHON ?? 'python3';
  const { stdout } = await promisify(execFile)(python, [join(here, 'upload.py'), `${hub.url}/api/uploads`, hub.token, file]);
  const { url, sha256 } = JSON.parse(stdout);
  assert.equal(sha256, createHash('sha256').update(source).digest('hex'));
  assert.deepEqual([...new Set(await analysed(url))], ['ping.py']);
});
