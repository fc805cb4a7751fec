// Whether the server is ready; run.sh waits for it.
import http from 'k6/http';
import { HTTP_URL } from './lib/target.js';

export const options = { thresholds: { http_req_failed: ['rate==0'] }, iterations: 1 };

export default function () {
  http.get(`${HTTP_URL}/health/ready`);
}
