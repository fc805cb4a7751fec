// Writes `third-party.txt` beside the bundle: the licences of everything that ends up in it.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import type { Plugin } from 'vite';

interface Package {
  name: string;
  version: string;
  license?: string;
  author?: string | { name?: string };
}

/// Build tools that leave a few lines of their own in the bundle.
const TOOLS_IN_BUNDLE = ['vite', 'rolldown'];
const LICENCE_FILE = /^(licen[cs]e|copying|notice)([.-].*)?$/i;

function describe(folder: string): string {
  const held = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Package;
  const files = readdirSync(folder).filter((file) => LICENCE_FILE.test(file)).sort();
  const author = typeof held.author === 'string' ? held.author : held.author?.name;
  const texts = files.map((file) => readFileSync(path.join(folder, file), 'utf8').replaceAll('\r\n', '\n').trim());
  const title = `${held.name} ${held.version} (${held.license ?? 'see below'})`;
  return [title, '-'.repeat(title.length), ...(texts.length ? texts : [`Author: ${author ?? 'see the package'}`])].join('\n\n');
}

/// All packages the page may contain: those that are not only for building, and what building leaves behind.
function packages(root: string): string[] {
  const lock = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; optional?: boolean; devOptional?: boolean; peer?: boolean }>;
  };
  return Object.entries(lock.packages)
    .filter(([name, entry]) => name && !name.includes('@types/') && (!entry.dev || TOOLS_IN_BUNDLE.some((tool) => name === `node_modules/${tool}`)))
    .map(([name]) => path.join(root, name))
    .filter((folder) => existsSync(folder))
    .sort();
}

export function notices(): Plugin {
  let root = '.';
  return {
    name: 'third-party-notices',
    apply: 'build',
    configResolved(config) {
      root = config.root;
    },
    generateBundle() {
      const intro = 'The AuraLink web UI contains the software listed here, each under its own licence.';
      const source = `${[intro, ...packages(root).map(describe)].join('\n\n\n')}\n`;
      this.emitFile({ type: 'asset', fileName: 'third-party.txt', source });
    },
  };
}
