// Starts the real program on a fresh data folder and stops it: every client here talks to what users run.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const READY_WITHIN = 20_000;

/** @returns {Promise<{url: string, token: string, data: string, stop: () => Promise<number>}>} */
export async function startHub() {
  const binary = process.env.MUNJIGI_BIN ?? 'munjigi';
  const data = await mkdtemp(join(tmpdir(), 'munjigi-clients-'));
  const child = spawn(binary, ['up', '--data', data, '--listen', '127.0.0.1:0', '--no-open'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('exit', (code) => resolve(code ?? -1)));
  await Promise.race([
    new Promise((resolve) => createInterface({ input: child.stdout }).once('line', resolve)),
    ended.then((code) => Promise.reject(new Error(`munjigi up ended with ${code}`))),
    new Promise((_, reject) => setTimeout(reject, READY_WITHIN, new Error('munjigi up is not ready')).unref()),
  ]);
  const { url } = JSON.parse(await readFile(join(data, 'runtime.json'), 'utf8'));
  const token = (await readFile(join(data, 'cli.token'), 'utf8')).trim();
  return {
    url: url.replace(/\/$/, ''),
    token,
    data,
    async stop() {
      child.kill('SIGTERM');
      const code = await ended;
      await rm(data, { recursive: true, force: true });
      return code;
    },
  };
}

/** A hub's JSON answer, signed in by token. */
export async function api(hub, method, path, body) {
  const response = await fetch(`${hub.url}/api${path}`, {
    method,
    headers: { authorization: `Bearer ${hub.token}`, ...(body ? { 'content-type': 'application/json' } : {}) },
    body: body ? JSON.stringify(body) : undefined,
  });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : null };
}

/** Follows a job to its end. */
export async function ended(hub, eventId) {
  for (let tries = 0; tries < 600; tries += 1) {
    const { body } = await api(hub, 'GET', `/jobs/${eventId}`);
    if (['DONE', 'FAILED', 'CANCELLED'].includes(body.status)) return body;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`job ${eventId} did not end`);
}

/** Python source with one certain finding, padded to `bytes`. */
export function vulnerableSource(bytes) {
  const head = [
    'import os',
    'from flask import Flask, request',
    'app = Flask(__name__)',
    '@app.route("/ping")',
    'def ping():',
    '    host = request.args.get("host")',
    '    os.system("ping -c 1 " + host)',
    '    return "ok"',
    '',
  ].join('\n');
  const line = '# nothing happens on this line, nor on any other like it\n';
  const lines = Math.max(0, Math.ceil((bytes - head.length) / line.length));
  return Buffer.from(head + line.repeat(lines));
}
