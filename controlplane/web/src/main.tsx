// Starts the page that the address names: the front page, or Meet (loaded only when wanted).
import { lazy, Suspense } from 'react';
import { createRoot } from 'react-dom/client';
import { Landing } from './Landing';
import { readAddress } from './address';
import './style.css';

const Meet = lazy(() => import('./Meet'));
const address = readAddress(window.location);

// A token must neither stay in the address bar nor in a link that is copied from there.
if (address.token) window.history.replaceState(null, '', window.location.pathname + window.location.search);

const root = document.getElementById('root');
if (root) {
  createRoot(root).render(
    address.page === 'landing' ? (
      <Landing />
    ) : (
      <Suspense fallback={<main className="centred" aria-busy="true" />}>
        <Meet room={address.room} token={address.token} />
      </Suspense>
    ),
  );
}
