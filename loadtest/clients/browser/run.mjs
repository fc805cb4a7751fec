// The browser suite: real livekit-client in real Chromium and Firefox against the release binary.
//
//   node run.mjs [FILTER]     only scenarios whose "variant / name" contains FILTER, and long ones whose name does
//
// Ends with status 1 if any scenario fails; never skips one.
import { enterNamespace } from './lib/namespace.mjs';
import { launch, servePage } from './lib/browser.mjs';
import { launchFirefox } from './lib/firefox.mjs';
import { Server, VARIANTS } from './lib/server.mjs';
import { scenarios } from './scenarios/index.mjs';

/// The scenarios watch two browsers decode in real time, on machines whose other tenants take the processor away now and then.
/// A fault of ours fails twice; both accounts are printed.
const ATTEMPTS = 2;

async function runVariant(variant, chosen, browsers) {
  const failures = [];
  const server = await Server.start(variant);
  try {
    for (const scenario of chosen) {
      const name = `${variant} / ${scenario.name}`;
      for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
        const start = Date.now();
        const took = () => `(${((Date.now() - start) / 1000).toFixed(1)} s)`;
        try {
          const detail = await scenario.run({ server, ...browsers, room: `${name} ${attempt}` });
          console.log(`ok    ${name} ${took()} ${attempt > 1 ? `ON ATTEMPT ${attempt}: ` : ''}${detail ?? ''}`);
          break;
        } catch (error) {
          console.log(`FAIL  ${name} ${took()}, attempt ${attempt} of ${ATTEMPTS}\n${error.stack}`);
          if (attempt === ATTEMPTS) failures.push(name);
        } finally {
          for (const context of Object.values(browsers)) {
            await Promise.all(context.pages().slice(1).map((page) => page.close()));
          }
        }
      }
    }
  } finally {
    await server.stop().catch((error) => failures.push(`${variant}: ${error.message}`));
  }
  return failures;
}

if (enterNamespace()) {
  const filter = process.argv[2] ?? '';
  const page = await servePage();
  const isMeant = (scenario) => !scenario.long || (filter && scenario.name.includes(filter));
  const chosenOf = (variant) =>
    scenarios.filter(
      (scenario) =>
        (scenario.only?.includes(variant) ?? !VARIANTS[variant].named) && `${variant} / ${scenario.name}`.includes(filter) && isMeant(scenario),
    );
  const browsers = { one: await launch(), two: await launch() };
  if (Object.keys(VARIANTS).some((variant) => chosenOf(variant).some((scenario) => scenario.fox))) browsers.fox = await launchFirefox();
  const failures = [];
  let ran = 0;
  try {
    for (const variant of Object.keys(VARIANTS)) {
      const chosen = chosenOf(variant);
      ran += chosen.length;
      if (chosen.length) failures.push(...(await runVariant(variant, chosen, browsers)));
    }
  } finally {
    for (const browser of Object.values(browsers)) await browser.close();
    page.close();
  }
  console.log(`${Math.max(0, ran - failures.length)} passed, ${failures.length} failed`);
  failures.forEach((name) => console.log(`failed: ${name}`));
  process.exit(failures.length || !ran ? 1 : 0);
}
