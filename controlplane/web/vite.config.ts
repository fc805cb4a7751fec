import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';
import { notices } from './notices.ts';

export default defineConfig({
  plugins: [react(), notices()],
  build: {
    target: 'es2022',
    assetsDir: 'assets',
    assetsInlineLimit: 0,
    sourcemap: false,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 2_000,
    reportCompressedSize: false,
  },
  server: { proxy: { '/meet/token': 'http://localhost:7880', '/rtc': { target: 'ws://localhost:7880', ws: true } } },
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
